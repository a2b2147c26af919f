"""Engines that compute, by name, on a model that a test has: made for one test, closed when it ends."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from workers.engine.paged import PagedEngine
from workers.engine.serving import serve
from workers.engine.slots import SlotsEngine

if TYPE_CHECKING:
    from workers.engine.loading import Loaded

Computing = SlotsEngine | PagedEngine


class Make(Protocol):
    """Makes an engine of the kind under test."""

    def __call__(
        self, *, slots: int = 3, max_tokens: int = 512, clock: Callable[[], float] = time.monotonic
    ) -> Computing: ...


@contextmanager
def making(kind: str, loaded: "Loaded") -> Iterator[Make]:
    """`slots` or `paged`; without CUDA graphs, which would run past the hooks that the tests break a model with."""
    with ExitStack() as stack:

        def make(*, slots: int = 3, max_tokens: int = 512, clock: Callable[[], float] = time.monotonic) -> Computing:
            engine: Computing = (
                SlotsEngine(loaded, slots=slots, max_tokens=max_tokens, clock=clock)
                if kind == "slots"
                else PagedEngine(loaded, slots=slots, max_tokens=max_tokens, graphs=False, clock=clock)
            )
            return stack.enter_context(closing(engine))

        yield make


def computed_by(engine: Computing, loaded: "Loaded") -> Any:
    """The model that an engine really runs: `slots` makes one of its own that shares the weights."""
    return serve(loaded.model) if isinstance(engine, SlotsEngine) else loaded.model
