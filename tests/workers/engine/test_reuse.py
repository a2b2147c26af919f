"""What the engine `slots` keeps for follow-ups, through its own thread: used, thrown away when spoiled, given back."""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from app.errors import EngineStopped, RequestRejected
from tests.workers.engine.asking import ask, until
from tests.workers.engine.breaking import Breaking, outcome
from tests.workers.engine.exactness import Judge
from tests.workers.engine.tiny import as_loaded, tiny_llama
from workers.engine.interface import Request
from workers.engine.sequence import Sequence
from workers.engine.serving import serve
from workers.engine.slots import KEEP_S, SlotsEngine

if TYPE_CHECKING:
    from workers.engine.loading import Loaded

HISTORY = [n % 90 for n in range(7, 207)]
NEW = 8


class MakeKeeping(Protocol):
    def __call__(self, keep_s: float = KEEP_S) -> SlotsEngine: ...


@pytest.fixture(scope="module")
def model() -> "Loaded":
    return as_loaded(tiny_llama())


@pytest.fixture
def make(model: "Loaded") -> Iterator[MakeKeeping]:
    with ExitStack() as stack:

        def make(keep_s: float = KEEP_S) -> SlotsEngine:
            engine = SlotsEngine(model, slots=3, max_tokens=400, threads=1, keep_s=keep_s)
            return stack.enter_context(closing(engine))

        yield make


def answered(engine: SlotsEngine, prompt: list[int]) -> Sequence:
    sequence = engine.start(prompt, ask("", max_new_tokens=NEW))
    assert sequence.handle.result().new_tokens == NEW
    return sequence


def test_each_turn_of_a_long_chat_computes_what_is_new_and_no_more(model: "Loaded", make: MakeKeeping) -> None:
    engine, judge = make(), Judge(model, NEW)
    scheduler = engine._scheduler

    said = HISTORY
    computed = []
    for turn in range(4):
        before = scheduler.prefilled_tokens
        sequence = answered(engine, said)
        judge.check(sequence.prompt, sequence.new, limit=NEW)
        computed.append(scheduler.prefilled_tokens - before)
        said = sequence.prompt + sequence.new + [turn, 3, 5]

    assert computed == [len(HISTORY) - 1, 3, 3, 3]  # a question, its last token apart, and the last of the answer
    assert judge.ties == 0


def test_what_came_of_numbers_that_overflowed_is_nobodys_beginning(model: "Loaded", make: MakeKeeping) -> None:
    """Else all who begin alike would fail with it."""
    engine, judge = make(), Judge(model, NEW)

    def spoil(_: Any, __: Any, output: Any) -> Any:
        output.logits[0] = float("nan")
        return output

    with serve(model.model).register_forward_hook(spoil), pytest.raises(RequestRejected, match="overflow"):
        engine.start(HISTORY, ask("", max_new_tokens=NEW)).handle.result()
    sequence = answered(engine, HISTORY)

    assert engine._scheduler.places.reused_tokens == 0
    judge.check(sequence.prompt, sequence.new, limit=NEW)


def test_what_was_in_the_cache_when_the_device_erred_is_nobodys_beginning(model: "Loaded", make: MakeKeeping) -> None:
    engine, judge = make(), Judge(model, NEW)
    answered(engine, HISTORY)
    with Breaking(serve(model.model), RuntimeError("a device error"), times=1):
        assert isinstance(outcome(engine.start([1, 2, 3], ask("")).handle), EngineStopped)

    sequence = answered(engine, HISTORY)

    assert engine.figures().reused_tokens == 0
    judge.check(sequence.prompt, sequence.new, limit=NEW)


def test_an_engine_that_nobody_asks_gives_its_memory_back(model: "Loaded", make: MakeKeeping) -> None:
    """And begins from nothing when somebody comes after all."""
    engine, judge = make(keep_s=0.01), Judge(model, NEW)
    places = engine._scheduler.places
    answered(engine, HISTORY)

    until(lambda: places.kept == 0)
    sequence = answered(engine, HISTORY)

    assert places.reused_tokens == 0
    judge.check(sequence.prompt, sequence.new, limit=NEW)


def test_an_engine_that_is_idle_for_a_moment_keeps_what_was_said(make: MakeKeeping) -> None:
    engine = make()
    answered(engine, HISTORY)
    until(lambda: not engine._scheduler)

    answered(engine, HISTORY)

    assert engine._scheduler.places.reused_tokens == len(HISTORY) - 1


def test_a_chat_that_is_longer_than_the_model_finds_most_of_itself_in_the_cache(make: MakeKeeping) -> None:
    """It loses its oldest messages, but not at every turn."""
    engine = make()
    messages: tuple[tuple[str, str], ...] = ()
    prompts = 0
    for turn in range(40):
        messages += (("user", f"{turn} is what I ask"),)
        asked = Request(messages=engine.fit(messages, NEW), max_new_tokens=NEW)
        answer = engine.submit(asked).result()
        messages += (("assistant", answer.text),)
        prompts += answer.prompt_tokens

    assert answer.prompt_tokens > 0.7 * (engine.max_tokens - NEW)
    assert engine.figures().reused_tokens > 0.75 * prompts  # type: ignore[operator]
