"""Keys and values of all slots: one pair of tensors a layer, B slots x length, which grow on demand.

It is a transformers Cache, so any model that takes one writes through it. Where the tokens of a forward go is set
before the forward, in `place`; all layers share it.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

LENGTH_STEP = 256  # growing copies, so it happens rarely; a step is 12 MB for SmolLM2-135M at 16 slots in float16


@dataclass(slots=True)
class Place:
    """Where a forward's keys and values go, and which part of the cache attention sees."""

    rows: slice = field(default_factory=lambda: slice(0))  # the slots of this forward
    length: int = 0  # positions that attention sees, from 0
    start: int = 0  # a chunk's first position; not used with `positions`
    positions: Tensor | None = None  # int64 [rows]: one token for each slot, at its own position
    slots: Tensor | None = None  # int64 [rows]: 0..n-1, beside `positions`
    capacity: tuple[int, int] = (0, 0)  # slots and length that the tensors must have


class SlotLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers has no types
    """One layer: keys and values [slots, heads, length, head size]. Stale content is masked, never read."""

    is_sliding = False
    keys: Any  # Tensor, or None before the first forward
    values: Any

    def __init__(self, place: Place) -> None:
        super().__init__()
        self._place = place

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Make or grow the tensors to the place's capacity. What they hold is kept."""
        self.keys = _grown(self.keys, key_states, self._place.capacity)
        self.values = _grown(self.values, value_states, self._place.capacity)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write new keys and values [rows, heads, tokens, head size]; returns the part that attention sees."""
        if not self.is_initialized or (self.keys.shape[0], self.keys.shape[2]) != self._place.capacity:
            self.lazy_initialization(key_states, value_states)
        return self._write(self.keys, key_states), self._write(self.values, value_states)

    def _write(self, store: Tensor, states: Tensor) -> Tensor:
        place = self._place
        if place.positions is None:
            store[place.rows, :, place.start : place.start + states.shape[2]] = states
        else:
            store[place.slots, :, place.positions] = states[:, :, 0]
        return store[place.rows, :, : place.length]

    def move(self, source: int, target: int, tokens: int) -> None:
        for store in (self.keys, self.values):
            store[target, :, :tokens] = store[source, :, :tokens]

    def drop(self) -> None:
        self.keys = self.values = None
        self.is_initialized = False

    def get_seq_length(self) -> int:
        return self._place.length

    def get_max_length(self) -> int:
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._place.length, 0


class SlotCache(Cache):  # type: ignore[misc]  # transformers has no types
    """The cache of all slots. `slots` and `length` are the most that it may grow to."""

    def __init__(self, *, layers: int, slots: int, length: int) -> None:
        self.place = Place()
        self._slots, self._length = slots, length
        super().__init__(layers=[SlotLayer(self.place) for _ in range(layers)])

    def reserve(self, slots: int, length: int) -> None:
        """Make room for so many slots and positions, from the next forward on; grows in steps, never shrinks."""
        had_slots, had_length = self.place.capacity
        if slots > had_slots:
            had_slots = min(self._slots, max(slots, 2 * had_slots))
        if length > had_length:
            had_length = min(self._length, -(-length // LENGTH_STEP) * LENGTH_STEP)
        self.place.capacity = (had_slots, had_length)

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copy one slot's first tokens over another slot."""
        for layer in self.layers:
            layer.move(source, target, tokens)

    def drop(self) -> None:
        """Give the memory back. Only when no sequence is running."""
        self.place.capacity = (0, 0)
        for layer in self.layers:
            layer.drop()


def _grown(old: Tensor | None, like: Tensor, capacity: tuple[int, int]) -> Tensor:
    slots, length = capacity
    # Zeros, not empty: a masked position counts 0 times its value, and 0 times NaN is NaN.
    new = torch.zeros(slots, like.shape[1], length, like.shape[3], dtype=like.dtype, device=like.device)
    if old is not None:
        new[: old.shape[0], :, : old.shape[2]] = old
    return new
