"""Thousands of requests through one engine: no slot, no thread, no memory stays behind."""

import random
import threading
from collections import Counter, deque
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.workers.engine.asking import ask
from tests.workers.engine.breaking import outcome
from tests.workers.engine.conftest import MakeSlots
from tests.workers.engine.tiny import as_loaded, tiny_llama
from workers.engine.interface import Result
from workers.engine.sequence import Sequence
from workers.engine.slots import SlotsEngine

if TYPE_CHECKING:
    from workers.engine.loading import Loaded

REQUESTS, WARM = 10_000, 2_000
GROWTH = 1.02
CANCELS, LONG = 500, 120  # of answers of so many tokens: it takes a while until they end by themselves
CACHE = 1024  # tokens


@pytest.fixture(scope="module")
def tiny() -> "Loaded":
    return as_loaded(tiny_llama())


def resident_bytes() -> int:
    """Of this process, now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def a_request(engine: SlotsEngine, dice: random.Random) -> Sequence:
    prompt = [dice.randrange(90) for _ in range(dice.randint(1, 40))]
    return engine.start(prompt, ask("", max_new_tokens=dice.randint(1, 16), temperature=dice.choice((0.0, 1.0))))


def test_ten_thousand_requests_leave_the_memory_as_it_was(tiny: "Loaded", make_slots: MakeSlots) -> None:
    engine, dice = make_slots(slots=16, max_tokens=64, cache_tokens=CACHE, model=tiny), random.Random(3)
    threads = set(threading.enumerate())
    going: deque[Sequence] = deque()
    warm_bytes = 0

    for number in range(REQUESTS):
        if number == WARM:
            warm_bytes = resident_bytes()
        going.append(a_request(engine, dice))
        if len(going) > 40:
            assert isinstance(outcome(going.popleft().handle), Result)
    assert all(isinstance(outcome(sequence.handle), Result) for sequence in going)

    assert resident_bytes() < GROWTH * warm_bytes
    assert set(threading.enumerate()) <= threads
    assert_empty(engine)


def test_five_hundred_cancels_at_random_moments_leave_nothing_behind(tiny: "Loaded", make_slots: MakeSlots) -> None:
    engine, dice = make_slots(slots=8, max_tokens=256, cache_tokens=2 * CACHE, model=tiny), random.Random(11)
    going: list[Sequence] = []
    ends: list[object] = []

    def cancel(sequence: Sequence) -> None:
        for _ in range(dice.choice((0, 0, 1, 3))):
            sequence.handle.next_piece(60)
        sequence.handle.cancel()
        ends.append(outcome(sequence.handle))

    for _ in range(CANCELS):
        prompt = [dice.randrange(90) for _ in range(dice.randint(1, 60))]
        going.append(engine.start(prompt, ask("", max_new_tokens=LONG)))
        if len(going) > 12:
            cancel(going.pop(dice.randrange(len(going))))
    for sequence in going:
        cancel(sequence)

    how = Counter(end.finish for end in ends if isinstance(end, Result))
    assert how["cancelled"] + how["length"] == CANCELS
    assert how["cancelled"] > CANCELS / 4, "they went on to their ends"
    assert_empty(engine, 2 * CACHE)


def assert_empty(engine: SlotsEngine, cache: int = CACHE) -> None:
    """Every slot and every token of the cache is free again."""
    scheduler = engine._scheduler
    assert (scheduler.running, scheduler.waiting) == (0, 0)
    assert scheduler.free_tokens == cache
