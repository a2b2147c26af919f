"""Adapters come and go by name while requests run; who has one keeps it, and there are never more than may be."""

import contextlib
import gc
import random
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest
import torch

from app.errors import BadAdapter, EngineStopped, EngineUnavailable, RequestRejected
from tests.workers.engine.asking import ask, first_piece, until
from tests.workers.engine.exactness import Judge
from tests.workers.engine.lora import Lora, a_lora
from tests.workers.engine.tiny import as_loaded, tiny_llama
from workers.engine.adapter_rules import AdapterRules
from workers.engine.sequence import Sequence
from workers.engine.serving import serve
from workers.engine.slots import SlotsEngine

if TYPE_CHECKING:
    from workers.engine.loading import Loaded

PROMPT = [5, 9, 3, 7, 11, 2, 8]
LONG = 400  # tokens: long enough to do something else meanwhile
NAMES = ("french", "legal", "short")


class Make(Protocol):
    def __call__(self, *, slots: int = 3, **rules: Any) -> SlotsEngine: ...


@pytest.fixture(scope="module")
def tiny_loaded() -> "Loaded":
    return as_loaded(tiny_llama())


@pytest.fixture(scope="module")
def folders(tiny_loaded: "Loaded", tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three adapters on disk, in no engine's folder."""
    root = tmp_path_factory.mktemp("saved")
    return {name: lora_of(tiny_loaded, name).save(root / name) for name in NAMES}


@pytest.fixture
def make(tiny_loaded: "Loaded") -> Iterator[Make]:
    made: list[SlotsEngine] = []

    def make(*, slots: int = 3, **rules: Any) -> SlotsEngine:
        made.append(SlotsEngine(tiny_loaded, slots=slots, max_tokens=500, threads=1, adapters=AdapterRules(**rules)))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def lora_of(loaded: "Loaded", name: str) -> Lora:
    return a_lora(loaded.model, NAMES.index(name), size=0.2)


def start(engine: SlotsEngine, name: str | None, *, max_new_tokens: int = 4) -> Sequence:
    return engine.start(PROMPT, ask("", max_new_tokens=max_new_tokens, adapter=name))


def in_memory(engine: SlotsEngine) -> list[str]:
    return [one.name for one in engine.adapters() if one.loaded]


def check(loaded: "Loaded", name: str | None, sequence: Sequence) -> None:
    """Fail if the answer is not that of the model with this adapter merged."""
    judged = loaded if name is None else lora_of(loaded, name).merged(loaded)
    Judge(judged, len(sequence.new)).check(sequence.prompt, sequence.new)


def test_a_name_that_there_is_none_of_is_refused_at_submit(make: Make, folders: dict[str, Path]) -> None:
    engine = make()
    engine.load_adapter("french", folders["french"])

    for name in ("spanish", "", "../french", str(folders["french"]), "x\0y", "français"):
        with pytest.raises(RequestRejected, match="adapter"):
            engine.submit(ask("1 2", adapter=name))

    assert start(engine, "french").handle.result().new_tokens == 4


def test_one_that_is_dropped_is_kept_by_who_has_it(make: Make, tiny_loaded: "Loaded", folders: dict[str, Path]) -> None:
    engine = make()
    engine.load_adapter("french", folders["french"])
    running = start(engine, "french", max_new_tokens=LONG)
    first_piece(running.handle)

    engine.drop_adapter("french")

    with pytest.raises(RequestRejected, match="there is none"):
        start(engine, "french")
    assert running.handle.result().new_tokens == LONG
    running.new = running.new[:80]
    check(tiny_loaded, "french", running)
    assert engine.adapters() == ()


def test_a_name_that_is_loaded_again_is_the_new_one_for_new_requests(
    make: Make, tiny_loaded: "Loaded", folders: dict[str, Path]
) -> None:
    engine = make()
    engine.load_adapter("house", folders["french"])
    old = start(engine, "house", max_new_tokens=LONG)
    first_piece(old.handle)

    engine.load_adapter("house", folders["legal"])
    new, plain = start(engine, "house", max_new_tokens=30), start(engine, None, max_new_tokens=30)

    assert [one.handle.result().new_tokens for one in (new, plain, old)] == [30, 30, LONG]
    old.new = old.new[:80]
    for name, sequence in (("french", old), ("legal", new), (None, plain)):
        check(tiny_loaded, name, sequence)
    assert len({old.kind, new.kind, plain.kind}) == 3
    assert plain.kind is None


def test_a_replacement_that_is_refused_leaves_the_one_that_was_there(
    make: Make, tiny_loaded: "Loaded", folders: dict[str, Path], tmp_path: Path
) -> None:
    engine = make()
    engine.load_adapter("house", folders["french"])

    with pytest.raises(BadAdapter, match="there is no file"):
        engine.load_adapter("house", tmp_path)

    answer = start(engine, "house")
    answer.handle.result()
    check(tiny_loaded, "french", answer)


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "-x", "x" * 65, "a b", "x\n", "x\0"])
def test_a_name_that_could_be_a_path_is_none(make: Make, folders: dict[str, Path], name: str) -> None:
    with pytest.raises(BadAdapter, match="name"):
        make().load_adapter(name, folders["french"])


def test_dropping_what_is_not_there_is_an_error(make: Make) -> None:
    with pytest.raises(BadAdapter, match="no adapter of this name"):
        make().drop_adapter("french")


def test_the_one_that_nobody_asked_for_the_longest_makes_room(make: Make, folders: dict[str, Path]) -> None:
    """And comes back when it is asked for; what is known of its keys and values no longer counts."""
    engine = make(most=2)
    engine.load_adapter("french", folders["french"])
    engine.load_adapter("legal", folders["legal"])
    before = start(engine, "french")
    before.handle.result()
    until(lambda: not any(one.running for one in engine.adapters()))

    engine.load_adapter("short", folders["short"])
    first = in_memory(engine)
    start(engine, "legal").handle.result()
    again = start(engine, "french")

    assert first == ["french", "short"]
    assert in_memory(engine) == ["french", "legal"]
    assert [one.name for one in engine.adapters()] == ["french", "legal", "short"]
    assert again.handle.result().new_tokens == 4
    assert again.kind != before.kind


def test_one_in_use_is_never_let_go_of(make: Make, folders: dict[str, Path]) -> None:
    """Who needs its room is told to come again; nothing is begun, so it can."""
    engine = make(most=1)
    engine.load_adapter("french", folders["french"])
    running = start(engine, "french", max_new_tokens=LONG)

    with pytest.raises(EngineUnavailable):
        engine.load_adapter("legal", folders["legal"])
    running.handle.cancel()
    running.handle.result()
    until(lambda: not any(one.running for one in engine.adapters()))
    engine.load_adapter("legal", folders["legal"])

    assert in_memory(engine) == ["legal"]


def test_those_that_were_dropped_and_still_run_count_too(make: Make, folders: dict[str, Path]) -> None:
    """Otherwise who replaces one all the time fills the memory."""
    engine = make(most=1)
    engine.load_adapter("french", folders["french"])
    running = start(engine, "french", max_new_tokens=LONG)
    engine.drop_adapter("french")

    with pytest.raises(EngineUnavailable):
        engine.load_adapter("legal", folders["legal"])

    running.handle.cancel()
    running.handle.result()


def test_the_bytes_are_bounded(make: Make, tiny_loaded: "Loaded", folders: dict[str, Path], tmp_path: Path) -> None:
    engine = make()
    engine.load_adapter("french", folders["french"])
    one = engine.adapters()[0].bytes
    small = make(most_bytes=2 * one + 100)
    large = a_lora(tiny_loaded.model, rank=17).save(tmp_path / "large")

    for name in NAMES:
        small.load_adapter(name, folders[name])
    with pytest.raises(BadAdapter, match="adapters may have"):
        small.load_adapter("large", large)

    assert one == sum(pair[0].nbytes + pair[1].nbytes for pair in lora_of(tiny_loaded, "french").pairs.values())
    assert in_memory(small) == ["legal", "short"]


def test_a_folder_of_adapters_is_loaded_at_the_start_and_later(
    make: Make, tiny_loaded: "Loaded", tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A bad one is left out, and said: the others answer."""
    lora_of(tiny_loaded, "french").save(tmp_path / "french")
    (lora_of(tiny_loaded, "legal").save(tmp_path / "broken") / "adapter_model.safetensors").write_bytes(b"x")
    (tmp_path / "no-adapter").mkdir()

    engine = make(folder=tmp_path)
    at_start = [(one.name, one.loaded) for one in engine.adapters()]
    lora_of(tiny_loaded, "short").save(tmp_path / "short")
    later = start(engine, "short")
    later.handle.result()
    with pytest.raises(RequestRejected, match="cannot be loaded"):
        start(engine, "broken")

    assert at_start == [("broken", False), ("french", True)]
    assert [record.reason for record in caplog.records if record.message == "adapter left out"]  # type: ignore[attr-defined]
    check(tiny_loaded, "short", later)
    with pytest.raises(RequestRejected, match="there is none"):
        start(engine, "no-adapter")


def test_one_of_the_folder_that_was_dropped_stays_away_until_it_is_loaded(
    make: Make, tiny_loaded: "Loaded", tmp_path: Path
) -> None:
    folder = lora_of(tiny_loaded, "french").save(tmp_path / "french")
    engine = make(folder=tmp_path)

    engine.drop_adapter("french")
    with pytest.raises(RequestRejected):
        start(engine, "french")
    engine.load_adapter("french", folder)

    assert start(engine, "french").handle.result().new_tokens == 4


def test_no_more_of_a_folder_are_loaded_at_the_start_than_fit(
    make: Make, tiny_loaded: "Loaded", tmp_path: Path
) -> None:
    for name in NAMES:
        lora_of(tiny_loaded, name).save(tmp_path / name)

    engine = make(folder=tmp_path, most=2)

    assert in_memory(engine) == ["french", "legal"]
    assert start(engine, "short").handle.result().new_tokens == 4
    assert in_memory(engine) == ["legal", "short"]


def test_a_folder_that_is_gone_stops_nobody(make: Make, tmp_path: Path) -> None:
    engine = make(folder=tmp_path / "unmounted")

    with pytest.raises(RequestRejected):
        start(engine, "french")

    assert start(engine, None).handle.result().new_tokens == 4


def test_what_was_dropped_leaves_no_memory_behind(make: Make, folders: dict[str, Path]) -> None:
    engine = make()
    engine.load_adapter("french", folders["french"])
    sequence = start(engine, "french", max_new_tokens=20)
    assert sequence.adapter is not None
    matrix = weakref.ref(next(iter(sequence.adapter.pairs.values()))[0])

    engine.drop_adapter("french")
    sequence.handle.result()

    until(lambda: gc.collect() >= 0 and matrix() is None)


def test_an_engine_that_was_closed_lends_and_holds_nothing(make: Make, folders: dict[str, Path]) -> None:
    engine = make()
    engine.load_adapter("french", folders["french"])
    running = start(engine, "french", max_new_tokens=LONG)
    assert running.adapter is not None
    host = weakref.ref(running.adapter.host)

    engine.close()

    with pytest.raises(EngineStopped):
        running.handle.result()
    for attempt in (lambda: start(engine, "french"), lambda: engine.load_adapter("legal", folders["legal"])):
        with pytest.raises(EngineStopped):
            attempt()
    assert gc.collect() >= 0
    assert host() is None


def test_a_step_without_adapters_runs_the_model_without_a_place_for_them(
    make: Make, tiny_loaded: "Loaded", folders: dict[str, Path]
) -> None:
    """They cost nothing while nobody has one."""
    engine = make()
    engine.load_adapter("french", folders["french"])
    steps: list[int] = []

    with serve(tiny_loaded.model).register_forward_hook(lambda *_: steps.append(1)):
        start(engine, None, max_new_tokens=5).handle.result()
        without = len(steps)
        start(engine, "french", max_new_tokens=5).handle.result()

    assert without == 5
    assert len(steps) == without


def test_names_are_loaded_replaced_and_dropped_from_threads_while_requests_run(
    make: Make, tiny_loaded: "Loaded", folders: dict[str, Path]
) -> None:
    """Every answer is that of the adapter that the name meant when it was asked for; in the end nobody has any."""
    engine = make(slots=4, most=4)
    judges = {name: Judge(lora_of(tiny_loaded, name).merged(tiny_loaded), 12) for name in NAMES}
    answers: list[tuple[str, Sequence]] = []

    def ask_on(dice: random.Random) -> None:
        ends_at, done = time.monotonic() + 100, 0
        while done < 10 and time.monotonic() < ends_at:
            name = dice.choice(NAMES)
            try:
                sequence = start(engine, name, max_new_tokens=dice.randint(1, 12))
            except (RequestRejected, EngineUnavailable):
                continue  # dropped at the moment, or all are in use
            if dice.random() < 0.2:
                sequence.handle.cancel()
            sequence.handle.result()
            answers.append((name, sequence))
            done += 1

    threads = [threading.Thread(target=ask_on, args=(random.Random(seed),)) for seed in range(4)]
    for thread in threads:
        thread.start()
    dice = random.Random(99)
    while any(thread.is_alive() for thread in threads):
        change(engine, dice, folders)
    for thread in threads:
        thread.join()

    assert len(answers) == 40
    for name, sequence in answers:
        judges[name].check(sequence.prompt, sequence.new)
    assert sum(one.running for one in engine.adapters()) == 0


def change(engine: SlotsEngine, dice: random.Random, folders: dict[str, Path]) -> None:
    """Drop one of the names or load it anew."""
    name = dice.choice(NAMES)
    with contextlib.suppress(BadAdapter, EngineUnavailable):  # not there, or all are in use
        if dice.random() < 0.3:
            engine.drop_adapter(name)
        else:
            engine.load_adapter(name, folders[name])


def test_half_precision_runs_too(tmp_path: Path) -> None:
    """As on GPUs and newer CPUs: an answer is that of the merged model but for rounding."""
    loaded = as_loaded(tiny_llama().to(torch.bfloat16))
    lora = a_lora(loaded.model, size=0.2)
    engine = SlotsEngine(loaded, slots=2, max_tokens=100, threads=1)
    engine.load_adapter("french", lora.save(tmp_path))

    with_it, without = (engine.start(PROMPT, ask("", max_new_tokens=1, adapter=name)) for name in ("french", None))
    results = with_it.handle.result(), without.handle.result()
    engine.close()

    merged = lora.merged(loaded).model(torch.tensor([PROMPT])).logits[0, -1].float()
    plain = loaded.model(torch.tensor([PROMPT])).logits[0, -1].float()
    assert [result.new_tokens for result in results] == [1, 1]
    assert merged.max() - merged[with_it.new[0]] < 0.05 * merged.abs().max()
    assert merged.max() - merged[without.new[0]] > 0.05 * merged.abs().max()
    assert plain.max() - plain[without.new[0]] < 0.05 * plain.abs().max()
