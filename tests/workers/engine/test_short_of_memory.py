"""The device has no memory for a step of `slots`: it does less at a time, and everybody is answered all the same."""

from typing import TYPE_CHECKING

import pytest
import torch

from app.errors import BadSetting, RequestRejected
from tests.workers.engine.asking import ask
from tests.workers.engine.breaking import Breaking
from tests.workers.engine.computing import a_prompt
from tests.workers.engine.conftest import MakeSlots
from tests.workers.engine.exactness import Judge
from tests.workers.engine.tiny import as_loaded, tiny_llama
from workers.engine.runner import is_out_of_memory
from workers.engine.serving import serve
from workers.engine.slots import SlotsEngine

if TYPE_CHECKING:
    from workers.engine.loading import Loaded

NO_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.fixture(scope="module")
def tiny() -> "Loaded":
    return as_loaded(tiny_llama())


def test_prompts_go_in_by_smaller_parts(tiny: "Loaded", make_slots: MakeSlots) -> None:
    engine, judge = make_slots(slots=4, model=tiny), Judge(tiny, 12)
    prompts = [[n % 90 for n in range(seed, seed + 120)] for seed in range(6)]

    with Breaking(serve(tiny.model), NO_MEMORY, above_tokens=70) as breaking:
        running = [engine.start(prompt, ask("", max_new_tokens=12)) for prompt in prompts]
        for sequence in running:
            assert sequence.handle.result().new_tokens == 12

    assert breaking.raised > 0
    for sequence in running:
        judge.check(sequence.prompt, sequence.new, limit=sequence.max_new)


def test_the_youngest_make_room_and_go_on_later_with_what_they_have(tiny: "Loaded", make_slots: MakeSlots) -> None:
    """Nothing that a reader has seen is written a second time, and nothing is missing."""
    engine, judge = make_slots(slots=30, max_tokens=128, model=tiny), Judge(tiny, 40)
    prompts = [[(7 * n + seed) % 90 for n in range(10)] for seed in range(30)]

    running = [engine.start(prompt, ask("", max_new_tokens=40)) for prompt in prompts]
    with Breaking(serve(tiny.model), NO_MEMORY, above_tokens=20) as breaking:
        results = [sequence.handle.result() for sequence in running]

    assert breaking.raised > 0
    assert [result.new_tokens for result in results] == [40] * 30
    assert [result.text for result in results] == [tiny.prompts.decode(sequence.new) for sequence in running]
    for sequence in running:
        judge.check(sequence.prompt, sequence.new, limit=sequence.max_new)


def test_who_has_no_memory_even_alone_is_told_so_and_the_next_is_answered(
    tiny: "Loaded", make_slots: MakeSlots
) -> None:
    engine = make_slots(slots=2, model=tiny)

    with Breaking(serve(tiny.model), NO_MEMORY, above_tokens=8):
        large = engine.start(list(range(60)), ask("", max_new_tokens=5))
        small = engine.start([1, 2, 3], ask("", max_new_tokens=5))

        with pytest.raises(RequestRejected, match="no memory for this prompt"):
            large.handle.result()
        assert small.handle.result().new_tokens == 5

    assert engine.alive()


def test_a_cache_that_the_machine_cannot_hold_is_refused_at_the_start(tiny: "Loaded") -> None:
    with pytest.raises(BadSetting, match="SWITCHYARD_CACHE_TOKENS: the cache of 1000000000000000 tokens does not fit"):
        SlotsEngine(tiny, slots=4, max_tokens=64, cache_tokens=10**15)


def test_the_word_of_this_machine_for_having_no_memory_is_known() -> None:
    with pytest.raises(RuntimeError) as told:
        torch.empty(2**50)

    assert is_out_of_memory(told.value)
    assert is_out_of_memory(NO_MEMORY)
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert is_out_of_memory(RuntimeError("std::bad_alloc"))
    assert not is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))


def test_without_memory_for_the_answers_of_a_real_model_they_are_the_same(
    loaded: "Loaded", make_slots: MakeSlots
) -> None:
    engine, judge = make_slots(slots=4), Judge(loaded, 8)
    prompts = [a_prompt(loaded, 30, n) for n in range(4)]

    with Breaking(serve(loaded.model), NO_MEMORY, above_tokens=18) as breaking:
        running = [engine.start(prompt, ask("", max_new_tokens=8)) for prompt in prompts]
        for sequence in running:
            sequence.handle.result()
            judge.check(sequence.prompt, sequence.new, limit=sequence.max_new)

    assert breaking.raised > 0
