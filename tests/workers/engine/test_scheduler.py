"""The scheduler alone, without a model: a list of token lists stands for the cache."""

import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workers.engine.asking import ask
from workers.engine.interface import Handle
from workers.engine.scheduler import Plan, Scheduler
from workers.engine.sequence import Answer, Sequence
from workers.engine.waiting import AGEING_S, Waiting


def a_sequence(*prompt: int, priority: int = 0) -> Sequence:
    return Sequence(
        request=ask("x", priority=priority),
        handle=Handle(),
        prompt=list(prompt),
        max_new=100,
        ends_at_s=None,
        answer=Answer(lambda tokens: "", ()),
    )


def run(plan: Plan, cache: list[list[int]]) -> None:
    """Do to lists what the runner does to tensors; then check that every row sees exactly its own tokens."""
    for move in plan.moves:
        cache[move.target][: move.tokens] = cache[move.source][: move.tokens]
    for chunk in plan.chunks:
        cache[chunk.slot][chunk.start : chunk.start + len(chunk.tokens)] = chunk.tokens
    for slot, row in enumerate(plan.rows):
        cache[slot][row.position : row.position + 1] = [row.token]
        seen = cache[slot][: row.position + 1]
        assert seen == row.sequence.prompt + row.sequence.new


def step(scheduler: Scheduler, cache: list[list[int]]) -> Plan:
    plan = scheduler.plan()
    run(plan, cache)
    for row in plan.rows:
        row.sequence.new.append(1000 + len(row.sequence.new))
    return plan


def test_a_short_prompt_is_prefilled_and_decoded_in_one_step() -> None:
    scheduler = Scheduler(slots=2, prefill_tokens=8)
    one = a_sequence(1, 2, 3)
    scheduler.add(one, now_s=0)

    plan = scheduler.plan()

    assert [chunk.tokens for chunk in plan.chunks] == [[1, 2]]
    assert [(row.token, row.position) for row in plan.rows] == [(3, 2)]


def test_a_long_prompt_is_prefilled_between_the_tokens_of_others() -> None:
    """A long prompt must not make everybody else wait for its end."""
    scheduler = Scheduler(slots=2, prefill_tokens=4)
    scheduler.add(short := a_sequence(1), now_s=0)
    scheduler.add(long := a_sequence(*range(12)), now_s=1)
    cache: list[list[int]] = [[], []]

    plans = [step(scheduler, cache) for _ in range(4)]

    assert [sum(len(chunk.tokens) for chunk in plan.chunks) for plan in plans] == [3, 4, 4, 0]
    assert all(plan.rows[0].sequence is short for plan in plans)
    assert long.new


def test_a_half_prefilled_prompt_moves_when_a_slot_before_it_is_freed() -> None:
    scheduler = Scheduler(slots=3, prefill_tokens=4)
    first, second, long = a_sequence(1), a_sequence(2), a_sequence(*range(12))
    cache: list[list[int]] = [[], [], []]
    for at, sequence in enumerate((first, second, long)):
        scheduler.add(sequence, now_s=at)
    step(scheduler, cache)
    assert 0 < long.cached < 11

    scheduler.remove(first)

    plan = step(scheduler, cache)
    assert [(move.source, move.target) for move in plan.moves] == [(1, 0), (2, 1)]
    while not long.new:
        step(scheduler, cache)


def test_when_all_have_left_nothing_is_left_to_move() -> None:
    """The cache is given back then: a move would meet no tensors."""
    scheduler = Scheduler(slots=2, prefill_tokens=8)
    first, second = a_sequence(1), a_sequence(2)
    for sequence in (first, second):
        scheduler.add(sequence, now_s=0)
    scheduler.plan()

    scheduler.remove(first)
    scheduler.remove(second)
    scheduler.add(a_sequence(3), now_s=1)

    assert scheduler.plan().moves == ()


def test_slots_are_filled_by_priority_then_arrival() -> None:
    scheduler = Scheduler(slots=1, prefill_tokens=8)
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


@settings(deadline=None, max_examples=150)
@given(seed=st.integers(0, 2**32), slots=st.integers(1, 5), prefill=st.integers(1, 9))
def test_every_row_sees_its_own_tokens_whoever_joins_and_leaves(seed: int, slots: int, prefill: int) -> None:
    """The rule behind equal answers: after any moves, a slot holds exactly its sequence."""
    dice = random.Random(seed)
    scheduler = Scheduler(slots=slots, prefill_tokens=prefill)
    cache: list[list[int]] = [[] for _ in range(slots)]

    for now in range(40):
        for _ in range(dice.choice([0, 0, 1, 3])):
            prompt = [dice.randrange(900) for _ in range(dice.randrange(1, 20))]
            scheduler.add(a_sequence(*prompt, priority=dice.randrange(3)), now_s=now)
        if scheduler:
            plan = step(scheduler, cache)
            assert plan.rows or plan.chunks
            assert len(plan.rows) <= slots
            assert sum(len(chunk.tokens) for chunk in plan.chunks) <= prefill
        for sequence in [each for each in scheduler if dice.random() < 0.2]:
            scheduler.remove(sequence)


@pytest.mark.parametrize("module", ["scheduler", "echo", "build", "demo_model", "openai.engine"])
def test_what_needs_no_model_loads_no_torch(module: str) -> None:
    """Only the text worker may pay for torch, and only with a model."""
    code = f"import sys, workers.engine.{module}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
