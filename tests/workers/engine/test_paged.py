"""What is the paged engine's own: the library under it dies or errs, and nobody waits in vain."""

import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from app.errors import BadSetting, EngineStopped, SwitchyardError
from tests.workers.engine.asking import ask, first_piece, until
from tests.workers.engine.breaking import Breaking, outcome
from tests.workers.engine.computing import a_prompt
from tests.workers.engine.reference import MOST_TIES, ties
from workers.engine.interface import Handle, Result
from workers.engine.paged import PagedEngine

if TYPE_CHECKING:
    from workers.engine.loading import Loaded

ROOT = Path(__file__).parents[3]
LEAVES = """
import sys
from pathlib import Path
from tests.workers.engine.asking import ask, first_piece
from tests.workers.engine.small import small_model
from workers.engine.paged import PagedEngine

engine = PagedEngine(small_model(Path(sys.argv[1])), slots=1, max_tokens=4000)
first_piece(engine.submit(ask("hello", max_new_tokens=3000)))
"""

MakePaged = Callable[..., PagedEngine]


@pytest.fixture
def make(small: "Loaded") -> Iterator[MakePaged]:
    with ExitStack() as stack:

        def make_paged(*, loaded: "Loaded" = small, slots: int = 3, max_tokens: int = 512, **more: Any) -> PagedEngine:
            return stack.enter_context(closing(PagedEngine(loaded, slots=slots, max_tokens=max_tokens, **more)))

        yield make_paged


def test_each_of_many_threads_reads_its_own_answer_as_it_is_written(small: "Loaded", make: MakePaged) -> None:
    engine = make(slots=6)
    prompts = [a_prompt(small, 4 + n, n) for n in range(20)]
    read: dict[int, list[str]] = {}

    def reader(n: int) -> None:
        read[n] = list(engine.start(prompts[n], ask("", max_new_tokens=12)).handle)

    threads = [threading.Thread(target=reader, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    alone = [engine.start(prompt, ask("", max_new_tokens=12)).handle.result().text for prompt in prompts]
    assert ["".join(read[n]) for n in range(20)] == alone
    assert all(len(read[n]) > 3 for n in range(20)), "it came in one piece"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # the library's thread, as is meant
def test_when_the_library_ends_without_a_word_those_in_flight_are_told(small: "Loaded", make: MakePaged) -> None:
    engine = make(slots=2)
    running = engine.start(a_prompt(small, 9), ask("", max_new_tokens=400))
    first_piece(running.handle)

    with Breaking(small.model, SystemExit(), times=1):
        assert isinstance(outcome(running.handle), EngineStopped)

    assert isinstance(outcome(engine.start(a_prompt(small, 9), ask("")).handle), Result)


def test_what_the_library_swallows_while_it_dies_is_answered_or_told(small: "Loaded", make: MakePaged) -> None:
    """The put after the drain, made certain: the manager's thread ends between our look and our put."""
    engine = make(slots=2)
    manager = engine._batcher._manager
    manager.stop(block=True, hard_stop=True)
    manager.background_thread_status.clear()  # it says that it takes requests, and nobody reads them

    handle = engine.start([5, 6, 7], ask("", max_new_tokens=3)).handle

    assert isinstance(outcome(handle), Result | EngineStopped)
    assert isinstance(outcome(engine.start([5, 6, 7], ask("", max_new_tokens=3)).handle), Result)


def test_two_hundred_cancels_at_random_moments_leave_nothing_behind(small: "Loaded", make: MakePaged) -> None:
    engine = make(slots=8, max_tokens=256)
    threads_before = set(threading.enumerate())
    dice = random.Random(11)
    going: list[Handle] = []
    ends: list[Result | SwitchyardError] = []

    for n in range(200):
        going.append(engine.start(a_prompt(small, dice.randrange(1, 120), n), ask("", max_new_tokens=120)).handle)
        while len(going) > 12:
            chosen = going.pop(dice.randrange(len(going)))
            for _ in range(dice.choice((0, 0, 1, 3))):
                chosen.next_piece(60)
            chosen.cancel()
            ends.append(outcome(chosen))
    for handle in going:
        handle.cancel()
        ends.append(outcome(handle))

    how = Counter(end.finish for end in ends if isinstance(end, Result))
    assert how["cancelled"] + how["length"] + how["stop"] == 200
    assert how["cancelled"] > 50, "they went on to their ends"
    inside = engine._batcher._manager.batch_processor
    until(lambda: not inside.scheduler.active_requests and not inside.scheduler.waiting_requests)
    inside.cache.evict_cached_blocks()
    assert inside.cache.compute_free_capacity() == 1.0
    assert len(engine._running) == len(engine._waiting) == 0
    assert set(threading.enumerate()) <= threads_before


def test_a_cache_smaller_than_the_slots_makes_wait_and_never_kills(small: "Loaded", make: MakePaged) -> None:
    """The library dies when nobody can be given a page. Old prefixes fill the cache, long and short ones alternate."""
    engine = make(slots=4, max_tokens=512, cache_tokens=24 * 32)
    lengths = [(300, 100), (5, 90), (200, 40), (380, 20), (30, 100), (100, 100), (390, 9), (10, 10)]

    sequences = [engine.start(a_prompt(small, p, n), ask("", max_new_tokens=a)) for n, (p, a) in enumerate(lengths * 2)]

    results = [sequence.handle.result() for sequence in sequences]

    assert [result.new_tokens for result in results] == [min(a, 512 - p) for p, a in lengths * 2]
    assert sum(ties(small, each.prompt, each.new, len(each.new)) for each in sequences[::5]) == 0


def test_a_cache_that_the_machine_cannot_hold_is_refused_at_the_start(small: "Loaded") -> None:
    with pytest.raises(
        BadSetting, match=r"SWITCHYARD_CACHE_TOKENS: the cache of \d+ pages of 32 tokens cannot be made"
    ):
        PagedEngine(small, slots=10**10, max_tokens=512)


def test_a_process_that_does_not_close_its_engine_ends_all_the_same(model_folder: Path) -> None:
    """The library's thread is no daemon: the interpreter would wait for it for ever."""
    process = subprocess.Popen([sys.executable, "-c", LEAVES, str(model_folder)], cwd=ROOT)
    try:
        assert process.wait(100) in (0, -signal.SIGABRT)  # a thread inside torch may abort an interpreter that ends
    finally:
        process.kill()
        process.wait()


def test_a_follow_up_computes_what_is_new_and_answers_the_same(small: "Loaded", make: MakePaged) -> None:
    engine = make(max_tokens=700)
    history = a_prompt(small, 600)
    engine.start(history, ask("", max_new_tokens=2)).handle.result()
    computed: list[int] = []

    def count(_: Any, __: Any, given: dict[str, Any]) -> None:
        computed.append(given["input_ids"].shape[1])

    with small.model.register_forward_pre_hook(count, with_kwargs=True):
        follow_up = engine.start(history + a_prompt(small, 20, 1), ask("", max_new_tokens=4))
        follow_up.handle.result()

    assert computed[0] <= 620 - 512  # whole pages were there, of 32 tokens, or of 256 on a GPU
    assert ties(small, follow_up.prompt, follow_up.new, 4) <= MOST_TIES[small.model.dtype]


def test_a_request_that_the_library_fails_alone_is_told_and_harms_nobody(
    make: MakePaged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.engine.intake.check_sampling", lambda request: None)  # else it would be refused
    engine = make()
    other = engine.start([7, 8, 9], ask("", max_new_tokens=60))
    first_piece(other.handle)

    odd = engine.start([7, 8, 9], ask("", temperature=1.0, top_k=1.5))

    assert isinstance(outcome(odd.handle), EngineStopped)
    assert other.handle.result().new_tokens == 60


def test_the_threads_of_an_engine_end_with_it(small: "Loaded") -> None:
    before = set(threading.enumerate())
    engine = PagedEngine(small, slots=2, max_tokens=64)
    assert len(set(threading.enumerate()) - before) == 2

    engine.close()

    assert set(threading.enumerate()) <= before
    assert not engine.alive()


def test_the_demo_model_answers_as_it_does_alone(loaded: "Loaded", make: MakePaged) -> None:
    engine = make(loaded=loaded, slots=2, max_tokens=128)
    questions = ["What is the capital of France?", "Translate to English: 北京是中国的首都。", "List three colours 🪐"]
    prompts = [loaded.prompts.encode((("user", question),)) for question in questions]

    sequences = [engine.start(prompt, ask("", max_new_tokens=10)) for prompt in prompts]

    assert "Paris" in sequences[0].handle.result().text
    assert all(sequence.handle.result().finish in ("stop", "length") for sequence in sequences)
    assert sum(ties(loaded, each.prompt, each.new, 10) for each in sequences) <= 1
