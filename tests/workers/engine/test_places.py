"""What is in the cache already is not computed again, and takes nobody's room."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.engine.test_scheduler import a_scheduler, a_sequence, step
from workers.engine.places import WORTH, common_prefix
from workers.engine.scheduler import Plan, Scheduler
from workers.engine.sequence import Sequence

CACHE = 1024
HISTORY = list(range(100, 140))


class House:
    """A scheduler, and a list of tokens that stands for the cache: `step` checks what every row sees."""

    def __init__(self, *, cache_tokens: int = CACHE, slots: int = 4, prefill_tokens: int = 256) -> None:
        self.scheduler: Scheduler = a_scheduler(slots=slots, prefill_tokens=prefill_tokens, cache_tokens=cache_tokens)
        self._cache = [0] * cache_tokens

    def add(self, *prompt: int, max_new: int = 4, kind: str | None = None, priority: int = 0) -> Sequence:
        sequence = a_sequence(*prompt, max_new=max_new, priority=priority)
        sequence.kind = kind
        self.scheduler.add(sequence, now_s=0)
        return sequence

    def step(self) -> Plan:
        return step(self.scheduler, self._cache)

    def answers(self, *prompt: int, max_new: int = 4, kind: str | None = None) -> Sequence:
        """One request from its beginning to its end, alone."""
        sequence = self.add(*prompt, max_new=max_new, kind=kind)
        while len(sequence.new) < max_new:
            self.step()
        self.scheduler.remove(sequence)
        return sequence

    def computes(self, *prompt: int, max_new: int = 4, kind: str | None = None) -> int:
        """How many tokens of a prompt go into the cache, the last one apart."""
        before = self.scheduler.prefilled_tokens
        self.answers(*prompt, max_new=max_new, kind=kind)
        return self.scheduler.prefilled_tokens - before


def test_a_follow_up_computes_what_is_new_in_the_place_of_what_was_said() -> None:
    house = House()
    first = house.answers(*HISTORY)
    said = first.prompt + first.new  # the last token of an answer is never put in

    computed = house.computes(*said, 1, 2, 3)

    assert computed == 3  # that one, and the new ones but the last
    assert house.scheduler.places.kept == 1
    assert house.scheduler.places.reused_tokens == len(said) - 1


def test_a_follow_up_that_needs_more_room_moves_there_and_leaves_the_old_place() -> None:
    house = House()
    first = house.answers(*HISTORY)

    computed = house.computes(*first.prompt, *first.new, *range(1, 101), max_new=60)

    assert computed == 100
    assert house.scheduler.places.kept == 1


def test_a_follow_up_that_needs_less_room_leaves_the_rest_to_others() -> None:
    """Who comes then would have begun if nothing had been kept."""
    house = House(cache_tokens=512)
    first = house.add(*HISTORY, max_new=300)  # 384 tokens
    for _ in range(5):
        house.step()
    house.scheduler.remove(first)

    house.add(*first.prompt, *first.new, 1, max_new=4)
    house.step()
    other = house.add(*range(3000, 3100), max_new=50)
    house.step()

    assert house.scheduler.places.reused_tokens == len(HISTORY) + 4
    assert other.handle.begun


def test_a_beginning_that_many_share_is_copied_and_stays() -> None:
    house = House()
    house.answers(*HISTORY, *range(1, 61))

    computed = [house.computes(*HISTORY, *range(1000 * n, 1000 * n + 20)) for n in range(1, 6)]

    assert computed == [19] * 5
    assert house.scheduler.places.kept == 6


def test_what_somebody_computes_who_still_runs_serves_others_from_the_next_step_on() -> None:
    """Who comes with them waits for that: many who bring one system prompt compute it once."""
    house = House(slots=5, prefill_tokens=20)
    first = house.add(*HISTORY, 1, max_new=30)
    together = [house.add(*HISTORY, number, max_new=30) for number in (2, 3)]
    for _ in range(2):
        house.step()
        assert first.cached > 0
        assert not any(one.cached for one in together)
    other = house.add(*range(2000, 2030), max_new=30)
    later = house.add(*HISTORY, 4, max_new=30)
    for _ in range(4):
        house.step()

    assert house.scheduler.prefilled_tokens == len(HISTORY) + len(other.prompt) - 1
    assert house.scheduler.places.reused_tokens == 3 * len(HISTORY)
    assert all(len(one.new) > 0 for one in (first, *together, other, later))


def test_who_waits_for_a_beginning_keeps_nobody_else_waiting() -> None:
    house = House(prefill_tokens=20)
    house.add(*HISTORY, 1)
    alike, other = house.add(*HISTORY, 2), house.add(*range(2000, 2010))

    house.step()

    assert alike.cached == 0
    assert other.cached > 0


def test_nobody_waits_for_a_beginning_of_a_few_tokens_or_of_another_kind() -> None:
    house = House()
    house.add(*HISTORY, 1)
    few, other_kind = house.add(*HISTORY[: WORTH - 1], 7, 7, 7), house.add(*HISTORY, 2, kind="french")

    house.step()

    assert few.cached > 0
    assert other_kind.cached > 0


def test_other_keys_and_values_are_not_reused() -> None:
    house = House()
    house.answers(*HISTORY, kind="french")

    assert house.computes(*HISTORY, 1, kind="german") == len(HISTORY)
    assert house.computes(*HISTORY, 1) == len(HISTORY)
    assert house.computes(*HISTORY, 1, kind="french") == 0


def test_what_went_wrong_is_not_kept() -> None:
    house = House()
    wrong = house.add(*HISTORY)
    house.step()
    wrong.spoiled = True
    house.scheduler.remove(wrong)

    assert house.scheduler.places.kept == 0
    assert house.computes(*HISTORY, 1) == len(HISTORY)


def test_the_whole_prompt_is_never_reused() -> None:
    """Its last token brings the first one of the answer."""
    house = House()
    house.answers(*HISTORY)

    again = house.answers(*HISTORY)

    assert len(again.new) == 4
    assert house.scheduler.places.reused_tokens == len(HISTORY) - 1


def test_a_few_tokens_are_not_worth_a_copy() -> None:
    house = House()
    house.answers(*HISTORY)

    assert house.computes(*HISTORY[: WORTH - 1], *range(50)) == WORTH - 1 + 49


def test_what_is_kept_makes_room_for_whoever_comes_the_oldest_first() -> None:
    house = House(cache_tokens=256, slots=2)
    for n in range(4):
        house.answers(*range(1000 * n, 1000 * n + 40))
    assert house.scheduler.places.kept == 4  # the cache is full

    house.answers(*range(5000, 5040))
    newest = house.computes(*range(3000, 3040), 1)
    oldest = house.computes(*range(0, 40), 1)

    assert (newest, oldest) == (0, 40)
    assert house.scheduler.places.evictions == 2


def test_nothing_is_thrown_out_for_somebody_who_has_no_room_all_the_same() -> None:
    house = House(cache_tokens=256, slots=4)
    house.answers(*range(40))
    house.add(*range(1000, 1060), max_new=60)  # 128 tokens
    house.step()
    waiting = house.add(*range(2000, 2090), max_new=60)
    house.step()

    assert not waiting.handle.begun
    assert (house.scheduler.places.kept, house.scheduler.places.evictions) == (1, 0)


def test_nothing_is_thrown_out_for_somebody_whose_span_is_larger_than_the_room() -> None:
    """Spans have sizes: 70 tokens take 96, and 88 are free."""
    house = House(cache_tokens=280, slots=4)
    house.answers(*range(40))
    house.add(*range(1000, 1100), max_new=80)  # 192 tokens
    house.step()
    waiting = house.add(*range(2000, 2060), max_new=11)
    house.step()

    assert not waiting.handle.begun
    assert (house.scheduler.places.kept, house.scheduler.places.evictions) == (1, 0)


def test_a_chat_finds_its_history_also_where_room_is_made_of_that_very_place() -> None:
    """The cache is as large as one answer's longest span: what the chat left is in the way of its next turn."""
    house = House(cache_tokens=512, slots=1)
    said: list[int] = []
    for turn in range(9):
        said += range(1000 * turn, 1000 * turn + 20)
        computed = house.computes(*said, max_new=20)
        said += range(1000, 1020)  # what the test's steps write
        assert computed <= 20 + (turn == 0 and 20)


@pytest.mark.parametrize("seed", range(10))
def test_somebody_joins_whenever_something_is_thrown_out(seed: int) -> None:
    """Free tokens that are not in one piece help nobody: then all stays."""
    house, dice = House(slots=8, cache_tokens=1024), random.Random(seed)
    scheduler = house.scheduler
    for number in range(300):
        if scheduler.waiting < 3:
            house.add(*range(1000 * number, 1000 * number + dice.randrange(1, 200)), max_new=dice.randrange(4, 120))
        running, evictions = set(scheduler.in_flight()), scheduler.places.evictions
        house.step()
        if scheduler.places.evictions > evictions:
            assert set(scheduler.in_flight()) - running
        for sequence in scheduler.in_flight():
            if len(sequence.new) >= sequence.max_new or dice.random() < 0.05:
                scheduler.remove(sequence)

    assert scheduler.places.evictions > 10


def test_what_was_to_be_zeroed_for_one_who_left_is_not_zeroed_under_the_next() -> None:
    """Somebody joins in a step for which there is no memory, and is put back; the next one has a copy in that place."""
    house = House(slots=3, prefill_tokens=16)
    house.answers(*HISTORY, *range(1000, 1030))
    leaving, _ = house.add(*range(200, 220), max_new=40), house.add(4, 5, 6, max_new=40)
    house.step()
    put_back = house.add(*range(500, 540), max_new=10)
    assert house.scheduler.ease(house.scheduler.plan())
    assert put_back not in house.scheduler.in_flight()
    follow_up = house.add(*HISTORY, 7, 8, 9, max_new=10, priority=5)
    house.scheduler.remove(leaving)

    for _ in range(6):
        house.step()

    assert len(follow_up.new) > 1


def test_what_is_forgotten_is_not_copied_either() -> None:
    """The cache that it was to be copied from is given back."""
    house = House()
    house.answers(*HISTORY, *range(1000, 1030))
    places = house.scheduler.places
    span = places.take(a_sequence(*HISTORY, 7, 8, 9))

    places.forget()

    assert span is not None
    assert places.copies() == ()


@pytest.mark.parametrize("length", [0, 1, 63])
def test_equal_lists_are_their_own_beginning(length: int) -> None:
    assert common_prefix(list(range(length)), list(range(length))) == length


@given(
    same=st.lists(st.integers(0, 3), max_size=70), one=st.lists(st.integers(0, 3)), other=st.lists(st.integers(0, 3))
)
def test_the_common_beginning_is_counted_right(same: list[int], one: list[int], other: list[int]) -> None:
    one, other = same + one, same + other
    expected = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))

    assert common_prefix(one, other) == expected
