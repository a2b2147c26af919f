"""Logit processors by name: what a request may ask to have done to its logits before a token is picked.

A processor sees one row: the request's tokens so far and its logits, float32 [vocabulary], which it may change. It runs
for the rows that name it and for no others.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from app.errors import RequestRejected

Processor = Callable[[Sequence[int], Sequence[int], Tensor], Tensor]  # prompt, answer so far, logits -> logits

_known: dict[str, Processor] = {}


def register(name: str, processor: Processor) -> None:
    """Make a processor known under a name. Raises ValueError if another one has it."""
    if _known.get(name, processor) is not processor:
        raise ValueError(f"a logit processor {name} is known already")
    _known[name] = processor


def check_processors(names: Sequence[str]) -> None:
    """Raise RequestRejected for a name that nobody registered."""
    for name in names:
        if name not in _known:
            raise RequestRejected(f"processors: there is none called {name}")


def apply(names: Sequence[str], prompt: Sequence[int], new: Sequence[int], logits: Tensor) -> Tensor:
    """Logits of one row after all named processors, in their order."""
    for name in names:
        logits = _known[name](prompt, new, logits)
    return logits
