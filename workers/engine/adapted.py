"""A served model with adapters at its linear layers: to each token its sequence's own, in one forward.

The modules are new ones around the same weights, and the served model stays as it was: a step in which nobody has an
adapter runs that one, and costs what it costs without any of this.
"""

import copy
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from app.errors import BadAdapter
from workers.engine.adapter_files import AdapterFile, is_target
from workers.engine.packed_linear import PackedLinear

Pair = tuple[Tensor, Tensor]  # down [in, rank], up [rank, out], which holds the scale

_kinds = itertools.count(1)


@dataclass(eq=False, slots=True, kw_only=True)
class Adapter:
    """One adapter in memory. `kind` tells it from every other one that was ever loaded, also under its name."""

    name: str
    host: "AdaptedModel"
    pairs: dict[str, Pair]  # by the paths of modules
    bytes: int
    users: int = 0  # requests that have it; counted by who lends it
    kind: int = field(default_factory=lambda: next(_kinds))


@dataclass(frozen=True, slots=True)
class Part:
    """The tokens of one forward that have an adapter: those from `begin` to `end`, or those of `index` alone."""

    adapter: Adapter
    begin: int
    end: int
    index: Tensor | None  # int64 [tokens], if they do not stand side by side


class AdaptedModel:
    """For one thread that runs it, and any number that fit adapters to it."""

    def __init__(self, served: Any, trial: Callable[[Any], object]) -> None:
        """`trial` runs a few tokens on a model; layers that do not see all of them at once take no adapter.

        Such as the output layer, and experts, which see the tokens that are sent to them.
        """
        self._now = _Now()
        self._model = _around(served, self._now)
        self._device = served.device
        # On a CPU a product of a few rows in half precision takes several times as long.
        self._dtype = torch.float32 if self._device.type == "cpu" else served.dtype
        layers = {path: layer for path, layer in self._model.named_modules() if isinstance(layer, _AdaptedLinear)}
        for path, layer in layers.items():
            layer.path = path
        seen = _seen_by(self._model, layers, trial)
        self._layers = {path: layer for path, layer in layers.items() if path in seen}

    @contextmanager
    def adding(self, parts: tuple[Part, ...]) -> Iterator[Any]:
        """The model to run one forward with, whose tokens these are."""
        self._now.parts = parts
        try:
            yield self._model
        finally:
            self._now.parts = ()  # else an adapter that left would stay in memory

    def check(self, file: AdapterFile) -> None:
        """Raise BadAdapter if it is for layers that the model does not have, or has in other sizes."""
        for path, (down, up) in file.pairs.items():
            layer = self._layers.get(path)
            if layer is None:
                raise BadAdapter(f"{path[:100]}: the model has no such linear layer, or none that takes adapters")
            wanted, got = (layer.linear.in_features, layer.linear.out_features), (down.shape[1], up.shape[0])
            if got != wanted:
                raise BadAdapter(
                    f"{path[:100]}: is for {got[0]} to {got[1]} numbers, the model has {wanted[0]} to {wanted[1]}"
                )
        for path in self._layers:
            if path not in file.pairs and any(is_target(path, target) for target in file.targets):
                raise BadAdapter(f"{path}: is a target module and has no weights in the file")

    def bytes_of(self, file: AdapterFile) -> int:
        """What `fit` will take."""
        numbers = sum(down.numel() + up.numel() for down, up in file.pairs.values())
        return numbers * int(self._dtype.itemsize)

    @torch.no_grad()
    def fit(self, name: str, file: AdapterFile) -> Adapter:
        """Put it where the model is. Raises BadAdapter if it has values that are no numbers, or too large there."""
        pairs = {
            path: (self._there(down.t()), self._there(up.t().float() * file.scale))
            for path, (down, up) in file.pairs.items()
        }
        if not all(bool(side.isfinite().all()) for pair in pairs.values() for side in pair):
            raise BadAdapter(f"it has values that are no numbers, or too large for {self._dtype}")
        return Adapter(name=name, host=self, pairs=pairs, bytes=self.bytes_of(file))

    def _there(self, side: Tensor) -> Tensor:
        return side.to(device=self._device, dtype=self._dtype, copy=True, memory_format=torch.contiguous_format)


@dataclass(slots=True)
class _Now:
    """Whose tokens are in the forward that runs."""

    parts: tuple[Part, ...] = ()


class _AdaptedLinear(nn.Module):
    """A linear layer, and what adapters add to it."""

    def __init__(self, linear: nn.Linear | PackedLinear, now: _Now) -> None:
        super().__init__()
        self.linear, self.path, self._now = linear, "", now

    def forward(self, states: Tensor) -> Tensor:
        """[1, n, in] -> [1, n, out]"""
        found: Tensor = self.linear(states)
        rows, inputs = found[0], states[0]
        for part in self._now.parts:
            pair = part.adapter.pairs.get(self.path)
            if pair is not None:
                _add(rows, inputs, part, pair)
        return found


def _add(found: Tensor, states: Tensor, part: Part, pair: Pair) -> None:
    """Add to found [n, out] what the adapter makes of its tokens of states [n, in]."""
    down, up = pair
    if part.index is None:
        found, states = found[part.begin : part.end], states[part.begin : part.end]
    else:
        states = states.index_select(0, part.index)
    low = states.to(down.dtype) @ down
    if part.index is not None:
        found.index_add_(0, part.index, (low @ up).to(found.dtype))
    elif found.dtype == up.dtype:
        found.addmm_(low, up)
    else:
        found.add_(low @ up)


def _around(served: Any, now: _Now) -> Any:
    """New modules around the same weights and the same linear layers."""
    known: dict[int, Any] = {id(tensor): tensor for tensor in (*served.parameters(), *served.buffers())}
    for module in served.modules():
        if type(module) in (nn.Linear, PackedLinear):
            known[id(module)] = _AdaptedLinear(module, now)
    return copy.deepcopy(served, known)


def _seen_by(model: Any, layers: dict[str, _AdaptedLinear], trial: Callable[[Any], object]) -> set[str]:
    """The paths of layers that in each forward see all tokens [1, n, in] once."""
    forwards: list[tuple[int, list[tuple[str, torch.Size]]]] = []

    def begin(_: Any, __: Any, named: dict[str, Any]) -> None:
        forwards.append((named["input_ids"].shape[1], []))

    def note(layer: Any, states: tuple[Tensor, ...]) -> None:
        forwards[-1][1].append((layer.path, states[0].shape))

    hooks = [model.base_model.register_forward_pre_hook(begin, with_kwargs=True)]
    hooks += [layer.register_forward_pre_hook(note) for layer in layers.values()]
    try:
        trial(model)
    finally:
        for hook in hooks:
            hook.remove()
    good = set(layers)
    for tokens, calls in forwards:
        whole = [path for path, shape in calls if shape[:-1] == (1, tokens)]
        good &= {path for path in whole if [called for called, _ in calls].count(path) == 1}
    return good
