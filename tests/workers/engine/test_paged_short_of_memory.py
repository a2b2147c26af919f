"""The device has no memory for a step of `paged`: the library dies of it, and everybody is answered all the same."""

import gc
import logging
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers.generation.continuous_batching import continuous_api
from transformers.generation.continuous_batching.cache import PagedAttentionCache

from app.errors import RequestRejected
from tests.workers.engine.asking import ask, until
from tests.workers.engine.breaking import Breaking, Hanging
from tests.workers.engine.reference import ties
from tests.workers.engine.tiny import as_loaded, tiny_llama
from workers.engine.batcher import LIBRARY_LOG
from workers.engine.load import SMALLEST_STEP, WELL_S, Load
from workers.engine.paged import PagedEngine
from workers.engine.restarts import RESTARTS

if TYPE_CHECKING:
    from workers.engine.loading import Loaded

NO_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

MakePaged = Callable[..., PagedEngine]


@pytest.fixture(scope="module")
def tiny() -> "Loaded":
    return as_loaded(tiny_llama())


@pytest.fixture
def make(tiny: "Loaded") -> Iterator[MakePaged]:
    with ExitStack() as stack:

        def make_paged(*, slots: int, **more: Any) -> PagedEngine:
            engine = PagedEngine(tiny, slots=slots, max_tokens=256, graphs=False, **more)
            return stack.enter_context(closing(engine))

        yield make_paged


def test_prompts_go_in_by_smaller_parts(tiny: "Loaded", make: MakePaged) -> None:
    engine = make(slots=4)
    prompts = [[(7 * n + seed) % 90 for n in range(40)] for seed in range(10)]

    with Breaking(tiny.model, NO_MEMORY, above_tokens=50) as breaking:
        running = [engine.start(prompt, ask("", max_new_tokens=12)) for prompt in prompts]
        results = [sequence.handle.result() for sequence in running]

    figures = engine.figures()
    assert [result.new_tokens for result in results] == [12] * 10
    assert 0 < breaking.raised == figures.out_of_memory
    assert (figures.restarts, figures.prompt_tokens, figures.ended["failed"]) == (0, 400, 0)
    assert sum(ties(tiny, each.prompt, each.new, 12) for each in running) == 0


def test_those_who_write_go_on_where_they_were(tiny: "Loaded", make: MakePaged) -> None:
    """Nothing that a reader has seen is written a second time, nothing is missing, and drawn tokens are the same."""
    engine = make(slots=4)
    asked = [ask("", max_new_tokens=40), *(ask("", max_new_tokens=40, temperature=1.0, seed=n) for n in range(3))]
    prompts = [[n + 1, n + 2, n + 3] for n in range(4)]
    alone = [engine.start(prompt, how) for prompt, how in zip(prompts, asked, strict=True)]
    expected = [each.handle.result().text for each in alone]

    with Hanging(tiny.model) as hanging:
        running = [engine.start(prompt, how) for prompt, how in zip(prompts, asked, strict=True)]
        hanging.wait()
        until(lambda: engine.figures().running == 4)
        for _ in range(5):
            hanging.next()
        until(lambda: all(len(each.new) > 2 for each in running))
        breaking = Breaking(tiny.model, NO_MEMORY, times=2)
    with breaking:
        shown = ["".join(each.handle) for each in running]

    assert breaking.raised == 2
    assert shown == expected
    assert [each.new for each in running] == [each.new for each in alone]
    assert engine.figures().generated_tokens == 2 * 4 * 40


def test_who_has_no_memory_even_alone_is_told_so_and_the_next_is_answered(tiny: "Loaded", make: MakePaged) -> None:
    """It takes more new beginnings than an engine that dies may have: as long as each does less, they are no deaths."""
    engine = make(slots=4)

    with Breaking(tiny.model, NO_MEMORY, above_tokens=8):
        large = engine.start(list(range(60)), ask("", max_new_tokens=5))
        small = engine.start([1, 2, 3], ask("", max_new_tokens=5))

        with pytest.raises(RequestRejected, match="no memory for this prompt"):
            large.handle.result()
        assert small.handle.result().new_tokens == 5
        again = engine.start(list(range(60)), ask("", max_new_tokens=5))
        with pytest.raises(RequestRejected, match="no memory for this prompt"):
            again.handle.result()

    figures = engine.figures()
    assert (figures.out_of_memory or 0) > RESTARTS
    assert (figures.restarts, engine.alive()) == (0, True)


def test_with_memory_enough_it_does_more_again(tiny: "Loaded", make: MakePaged) -> None:
    now = [0.0]
    engine = make(slots=4, clock=lambda: now[0])
    with Breaking(tiny.model, NO_MEMORY, times=2):
        engine.start([1, 2, 3], ask("", max_new_tokens=5)).handle.result()
    assert (engine._load.slots, engine._load.step_tokens) == (1, 64)

    for slots, step_tokens in ((2, 128), (4, 256)):
        now[0] += WELL_S
        until(lambda: engine._load.slots == slots and engine._load.step_tokens == step_tokens)  # noqa: B023

    assert engine.start([1, 2, 3], ask("", max_new_tokens=5)).handle.result().new_tokens == 5
    assert engine._batcher._manager.continuous_batching_config.max_batch_tokens == 256


def test_the_cache_of_one_that_died_is_gone_before_the_next_is_made(
    tiny: "Loaded", make: MakePaged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both together have no room on a device that was given one."""
    engine = make(slots=2)
    engine.start([1, 2, 3], ask("", max_new_tokens=5)).handle.result()
    cache = weakref.ref(engine._batcher._manager.batch_processor.cache)
    there: list[bool] = []

    def noting(*given: Any, **named: Any) -> PagedAttentionCache:
        there.append(cache() is not None)
        return PagedAttentionCache(*given, **named)

    monkeypatch.setattr(
        logging.getLogger(LIBRARY_LOG), "disabled", True
    )  # pytest keeps what is logged, with tracebacks
    monkeypatch.setattr(continuous_api, "PagedAttentionCache", noting)
    gc.disable()  # it must not be chance
    try:
        with Breaking(tiny.model, NO_MEMORY, times=1):
            engine.start([1, 2, 3], ask("", max_new_tokens=5)).handle.result()
    finally:
        gc.enable()

    assert there == [False]


@pytest.mark.parametrize(("slots", "step_tokens"), [(1, 16), (3, 8), (32, 256), (300, 300), (200, 2048)])
def test_halves_end_with_one_at_a_time_and_never_have_a_step_too_small_for_all(slots: int, step_tokens: int) -> None:
    load = Load(slots=slots, step_tokens=step_tokens, clock=lambda: 0.0)

    halves = 0
    while load.less():
        halves += 1
        assert min(step_tokens, load.slots) <= load.step_tokens

    assert (load.slots, load.step_tokens) == (1, min(step_tokens, SMALLEST_STEP))
    assert halves < 10
