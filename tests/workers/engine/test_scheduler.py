"""The scheduler alone, without a model: a list of token lists stands for the cache."""

import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workers.engine.asking import ask
from workers.engine.interface import Handle
from workers.engine.scheduler import WELL_STEPS, Plan, Scheduler
from workers.engine.sequence import Answer, Sequence
from workers.engine.waiting import AGEING_S, Waiting

CACHE = 1024


def a_sequence(*prompt: int, priority: int = 0, max_new: int = 40) -> Sequence:
    return Sequence(
        request=ask("x", priority=priority),
        handle=Handle(),
        prompt=list(prompt),
        max_new=max_new,
        ends_at_s=None,
        answer=Answer(lambda tokens: "", ()),
    )


def a_scheduler(*, slots: int = 2, prefill_tokens: int = 8, cache_tokens: int = CACHE) -> Scheduler:
    return Scheduler(slots=slots, prefill_tokens=prefill_tokens, cache_tokens=cache_tokens)


def make_copies(plan: Plan, cache: list[int]) -> None:
    """What comes first: it is done also when the device then has no memory for the forward."""
    for copy in plan.copies:
        cache[copy.to : copy.to + copy.tokens] = cache[copy.start : copy.start + copy.tokens]


def run(plan: Plan, cache: list[int]) -> None:
    """Do to a list what the runner does to tensors; then check that every row sees exactly its own tokens."""
    make_copies(plan, cache)
    for fresh in plan.fresh:
        cache[fresh.start : fresh.end] = [0] * fresh.tokens
    for chunk in plan.chunks:
        at = chunk.span.start + chunk.start
        cache[at : at + len(chunk.tokens)] = chunk.tokens
    for row in plan.rows:
        cache[row.span.start + row.position] = row.token
        seen = cache[row.span.start : row.span.start + row.position + 1]
        assert seen == row.sequence.prompt + row.sequence.new
        assert row.position < row.span.tokens
    assert [row.span.start for row in plan.rows] == sorted(row.span.start for row in plan.rows)


def step(scheduler: Scheduler, cache: list[int]) -> Plan:
    plan = scheduler.plan()
    run(plan, cache)
    for row in plan.rows:
        row.sequence.new.append(1000 + len(row.sequence.new))
    return plan


def test_a_short_prompt_is_prefilled_and_decoded_in_one_step() -> None:
    scheduler = a_scheduler()
    scheduler.add(a_sequence(1, 2, 3), now_s=0)

    plan = scheduler.plan()

    assert [chunk.tokens for chunk in plan.chunks] == [[1, 2]]
    assert [(row.token, row.position) for row in plan.rows] == [(3, 2)]


def test_several_prompts_are_prefilled_in_one_step_within_the_budget() -> None:
    """One forward of many tokens costs less than many of few."""
    scheduler = a_scheduler(slots=4, prefill_tokens=8)
    for _ in range(4):
        scheduler.add(a_sequence(1, 2, 3, 4), now_s=0)
    cache = [0] * CACHE

    plans = [step(scheduler, cache) for _ in range(2)]

    assert [[len(chunk.tokens) for chunk in plan.chunks] for plan in plans] == [[3, 3, 2], [1, 3]]
    assert [len(plan.rows) for plan in plans] == [2, 4]


def test_a_long_prompt_is_prefilled_between_the_tokens_of_others() -> None:
    """A long prompt must not make everybody else wait for its end."""
    scheduler = a_scheduler(prefill_tokens=4)
    scheduler.add(short := a_sequence(1), now_s=0)
    scheduler.add(long := a_sequence(*range(12)), now_s=1)
    cache = [0] * CACHE

    plans = [step(scheduler, cache) for _ in range(4)]

    assert [sum(len(chunk.tokens) for chunk in plan.chunks) for plan in plans] == [4, 4, 3, 0]
    assert all(plan.rows[0].sequence is short for plan in plans)
    assert long.new


def test_a_short_question_does_not_wait_for_the_end_of_long_prompts_before_it() -> None:
    """And who came first goes on at half the speed at least, however many short ones come."""
    scheduler = a_scheduler(slots=9, prefill_tokens=16)
    long = [a_sequence(*range(1000 * n, 1000 * n + 200)) for n in (1, 2)]
    for sequence in long:
        scheduler.add(sequence, now_s=0)
    cache = [0] * CACHE
    step(scheduler, cache)

    for at in range(1, 5):
        scheduler.add(short := a_sequence(*range(5000 * at, 5000 * at + 8)), now_s=at)
        plans = [step(scheduler, cache)]
        assert short in [row.sequence for row in plans[-1].rows]
        assert long[0].cached == 8 + 8 * at

    assert long[1].cached == 8 + 4 * 1  # what the short ones left


def test_prompts_of_the_favoured_go_in_before_those_of_others() -> None:
    scheduler = a_scheduler(slots=3, prefill_tokens=16)
    for sequence in (a_sequence(*range(50)), a_sequence(*range(90, 110)), favoured := a_sequence(*range(200, 250))):
        scheduler.add(sequence, now_s=0)
    favoured.request = ask("x", priority=1)

    step(scheduler, [0] * CACHE)

    assert favoured.cached == 8


def test_a_request_waits_until_the_cache_has_room_for_its_longest_answer() -> None:
    """Else it would run out of memory in mid-answer, or somebody would have to go."""
    scheduler = a_scheduler(slots=9, cache_tokens=256)
    for at, wanted in enumerate((60, 100, 100)):
        scheduler.add(a_sequence(1, max_new=wanted), now_s=at)

    before = scheduler.plan()
    scheduler.remove(before.rows[1].sequence)
    after = scheduler.plan()

    assert (len(before.rows), len(after.rows)) == (2, 2)
    assert (scheduler.running, scheduler.waiting, scheduler.free_tokens) == (2, 0, 64)


def test_nobody_overtakes_the_one_that_waits_for_room() -> None:
    """A large request would wait for ever if small ones went by."""
    scheduler = a_scheduler(slots=9, cache_tokens=256)
    small, large, next_small = a_sequence(1, max_new=60), a_sequence(2, max_new=250), a_sequence(3, max_new=60)
    for at, sequence in enumerate((small, large, next_small)):
        scheduler.add(sequence, now_s=at)

    assert [row.sequence for row in scheduler.plan().rows] == [small]
    scheduler.remove(small)

    assert [row.sequence for row in scheduler.plan().rows] == [large]


def test_slots_are_filled_by_priority_then_arrival() -> None:
    scheduler = a_scheduler(slots=1)
    early, late, urgent = a_sequence(1), a_sequence(2), a_sequence(3, priority=1)
    for sequence in (early, late, urgent):
        scheduler.add(sequence, now_s=0)

    served = []
    while scheduler:
        served.append(scheduler.plan().rows[0].sequence)
        scheduler.remove(served[-1])

    assert served == [urgent, early, late]


def test_one_that_waited_long_goes_before_a_favoured_newcomer() -> None:
    """Otherwise a stream of favoured requests would keep the others waiting for ever."""
    waiting: Waiting[str] = Waiting()

    waiting.add("old", priority=0, now_s=0)
    waiting.add("favoured", priority=1, now_s=AGEING_S + 1)

    assert [waiting.pop(), waiting.pop()] == ["old", "favoured"]


def test_a_step_that_had_no_memory_is_followed_by_smaller_ones_and_later_by_larger_ones() -> None:
    scheduler, cache = a_scheduler(slots=3, prefill_tokens=64), [0] * CACHE
    prompts = [a_sequence(*range(40 * n, 40 * n + 40), max_new=150) for n in range(3)]
    for sequence in prompts:
        scheduler.add(sequence, now_s=0)

    eased = [scheduler.ease(scheduler.plan()) for _ in range(2)]
    first = step(scheduler, cache)
    while not any(len(plan.rows) == 3 for plan in [step(scheduler, cache)]):
        pass
    last_joined = scheduler.in_flight()[-1]
    eased.append(scheduler.ease(scheduler.plan()))
    two = [len(step(scheduler, cache).rows) for _ in range(WELL_STEPS - 1)]
    three = [len(step(scheduler, cache).rows) for _ in range(4)]

    assert eased == [True, True, True]
    assert sum(len(chunk.tokens) for chunk in first.chunks) == 16
    assert set(two) == {2}
    assert three[-1] == 3
    assert scheduler.in_flight()[-1] is last_joined


def test_a_sequence_that_is_alone_cannot_make_room() -> None:
    scheduler = a_scheduler()
    scheduler.add(a_sequence(1), now_s=0)

    assert not scheduler.ease(scheduler.plan())


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**32), slots=st.integers(1, 9), prefill=st.integers(1, 9), cache_tokens=st.integers(64, 2000)
)
def test_every_row_sees_its_own_tokens_whoever_joins_leaves_and_makes_room(
    seed: int, slots: int, prefill: int, cache_tokens: int
) -> None:
    """The rule behind equal answers: a span holds exactly its sequence, and there are no spans of nobody."""
    dice = random.Random(seed)
    scheduler = a_scheduler(slots=slots, prefill_tokens=prefill, cache_tokens=cache_tokens)
    cache = [0] * cache_tokens
    came: list[list[int]] = []  # whose beginnings others bring again

    def leave(sequence: Sequence) -> None:
        sequence.spoiled = dice.random() < 0.2
        scheduler.remove(sequence)
        came.append(sequence.prompt + sequence.new)

    for now in range(40):
        for _ in range(dice.choice([0, 0, 1, 3])):
            told = dice.choice(came)[: dice.randrange(43)] if came and dice.random() < 0.5 else []
            prompt = told + [dice.randrange(900) for _ in range(dice.randrange(1, 20))]
            most = min(dice.choice([1, 20, 44]), cache_tokens - len(prompt))
            scheduler.add(a_sequence(*prompt, priority=dice.randrange(3), max_new=most), now_s=now)
        if scheduler and dice.random() < 0.1:
            refused = scheduler.plan()
            make_copies(refused, cache)
            if not scheduler.ease(refused):
                assert scheduler.running == 1
            for sequence in [one for one in scheduler if dice.random() < 0.2]:
                leave(sequence)
        if scheduler:
            plan = step(scheduler, cache)
            assert plan.rows or plan.chunks
            assert len(plan.rows) <= slots
            assert sum(len(chunk.tokens) for chunk in plan.chunks) <= prefill
        for sequence in list(scheduler):
            if len(sequence.new) >= sequence.max_new or dice.random() < 0.2:
                leave(sequence)

    for sequence in list(scheduler):
        scheduler.remove(sequence)
    assert scheduler.free_tokens == cache_tokens
    scheduler.places.forget()
    assert (scheduler.free_tokens, scheduler.places.kept) == (cache_tokens, 0)


@pytest.mark.parametrize("module", ["scheduler", "echo", "build", "demo_model", "openai.engine"])
def test_what_needs_no_model_loads_no_torch(module: str) -> None:
    """Only the text worker may pay for torch, and only with a model."""
    code = f"import sys, workers.engine.{module}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
