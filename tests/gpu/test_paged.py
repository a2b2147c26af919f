"""The paged engine on a GPU: its failures, and what only a GPU has: flash attention, captured graphs, own memory."""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests.workers.engine.asking import ask
from tests.workers.engine.computing import LENGTHS, a_prompt
from tests.workers.engine.reference import MOST_TIES, ties
from tests.workers.engine.test_paged import (  # noqa: F401  # the tests are run here
    MakePaged,
    test_a_follow_up_computes_what_is_new_and_answers_the_same,
    test_each_of_many_threads_reads_its_own_answer_as_it_is_written,
    test_two_hundred_cancels_at_random_moments_leave_nothing_behind,
    test_when_the_library_ends_without_a_word_those_in_flight_are_told,
)
from workers.engine.build import suited_kind
from workers.engine.paged import PagedEngine

if TYPE_CHECKING:
    from workers.engine.loading import Loaded

if not torch.cuda.is_available():
    pytest.skip("no GPU here", allow_module_level=True)


@pytest.fixture
def make(small: "Loaded") -> Iterator[MakePaged]:
    """Without graphs, which would run past the hooks that the tests break the model with."""
    with ExitStack() as stack:

        def make_paged(*, slots: int = 3, max_tokens: int = 512, **more: Any) -> PagedEngine:
            return stack.enter_context(
                closing(PagedEngine(small, slots=slots, max_tokens=max_tokens, graphs=False, **more))
            )

        yield make_paged


def test_it_is_the_engine_that_suits_a_gpu() -> None:
    assert suited_kind() == "paged"


def test_tokens_are_the_same_with_what_the_library_takes_on_a_gpu(small: "Loaded") -> None:
    """Its own choice of attention, and graphs where that attention allows them."""
    with closing(PagedEngine(small, slots=3, max_tokens=700)) as engine:
        running = [engine.start(a_prompt(small, p, n), ask("", max_new_tokens=a)) for n, (p, a) in enumerate(LENGTHS)]
        for sequence in running:
            sequence.handle.result()

    assert sum(ties(small, each.prompt, each.new, each.max_new) for each in running) <= MOST_TIES[small.model.dtype]


def test_seeds_hold_inside_a_captured_graph(small: "Loaded") -> None:
    request = ask("", max_new_tokens=24, temperature=0.9, top_p=0.9, seed=7)
    with closing(PagedEngine(small, slots=3, max_tokens=512)) as engine:
        twice = [engine.start([5, 6, 7], request) for _ in range(2)]
        other = engine.start([5, 6, 7], ask("", max_new_tokens=24, temperature=0.9, top_p=0.9, seed=8))
        for sequence in (*twice, other):
            sequence.handle.result()

    assert twice[0].new == twice[1].new != other.new


def test_a_closed_engine_gives_the_memory_of_its_cache_back(small: "Loaded") -> None:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    with closing(PagedEngine(small, slots=4, max_tokens=2048, graphs=False)) as engine:
        engine.start([5, 6, 7], ask("", max_new_tokens=4)).handle.result()
        assert torch.cuda.memory_allocated() > before
    del engine

    assert torch.cuda.memory_allocated() - before < 2**20
