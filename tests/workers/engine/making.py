"""Engines that compute, by name, on a model that a test has: made for one test, closed when it ends."""

from collections.abc import Iterator
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

    def __call__(self, *, slots: int = 3, max_tokens: int = 512) -> Computing: ...


@contextmanager
def making(kind: str, loaded: "Loaded") -> Iterator[Make]:
    """`slots` or `paged`; without CUDA graphs, which would run past the hooks that the tests break a model with."""
    with ExitStack() as stack:

        def make(*, slots: int = 3, max_tokens: int = 512) -> Computing:
            engine: Computing = (
                SlotsEngine(loaded, slots=slots, max_tokens=max_tokens)
                if kind == "slots"
                else PagedEngine(loaded, slots=slots, max_tokens=max_tokens, graphs=False)
            )
            return stack.enter_context(closing(engine))

        yield make


def computed_by(engine: Computing, loaded: "Loaded") -> Any:
    """The model that an engine really runs: `slots` makes one of its own that shares the weights."""
    return serve(loaded.model) if isinstance(engine, SlotsEngine) else loaded.model
