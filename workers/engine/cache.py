"""Keys and values of all sequences: one pair of tensors a layer, token after token; `spans.py` says which are whose.

It is a transformers Cache, so any model that takes one writes through it. Where the tokens of a forward go is set
before the forward, in `places`; all layers share it. What attention reads of it is up to `attention.py`.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class TokenLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers has no types
    """One layer: keys and values [tokens, heads, head size]."""

    is_sliding = False
    keys: Any  # Tensor, or None before the first forward
    values: Any

    def __init__(self, cache: "TokenCache") -> None:
        super().__init__()
        self._cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Make the tensors. Memory that is never written costs nothing on a CPU."""
        self.keys = _room_for(key_states, self._cache.tokens)
        self.values = _room_for(value_states, self._cache.tokens)
        self.is_initialized = True
        self._wipe(self._cache.fresh)

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write keys and values [1, heads, n, head size] to the n places; returns all of the layer's."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys.index_copy_(0, self._cache.places, key_states[0].transpose(0, 1))
        self.values.index_copy_(0, self._cache.places, value_states[0].transpose(0, 1))
        return self.keys, self.values

    def wipe(self, fresh: list[tuple[int, int]]) -> None:
        if self.is_initialized:
            self._wipe(fresh)

    def _wipe(self, fresh: list[tuple[int, int]]) -> None:
        for start, end in fresh:
            self.keys[start:end] = 0
            self.values[start:end] = 0

    def drop(self) -> None:
        self.keys = self.values = None
        self.is_initialized = False

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0


class TokenCache(Cache):  # type: ignore[misc]  # transformers has no types
    """The cache of all sequences together: room for `tokens` tokens."""

    def __init__(self, *, layers: int, tokens: int) -> None:
        self.tokens = tokens
        self.places = torch.empty(0, dtype=torch.int64)
        self.fresh: list[tuple[int, int]] = []
        super().__init__(layers=[TokenLayer(self) for _ in range(layers)])

    def wipe(self, fresh: list[tuple[int, int]]) -> None:
        """Zero these ranges (start, end) of tokens: who attends to several spans in one call sees their empty ends.

        They are masked, but a masked position still counts 0 times its value, and 0 times NaN is NaN.
        """
        self.fresh = fresh  # for the first forward, when there are no tensors yet
        for layer in self.layers:
            layer.wipe(fresh)

    def copy(self, start: int, to: int, tokens: int) -> None:
        """Keys and values of some tokens to another place, in all layers. The two may overlap.

        Then in pieces that do not, so that nothing is read after it was written over, and nothing needs memory.
        """
        step = min(abs(to - start), tokens)
        if step == 0:
            return
        pieces = range(0, tokens, step)
        for first in pieces if to < start else reversed(pieces):
            last = min(first + step, tokens)
            for layer in self.layers:
                layer.keys[to + first : to + last] = layer.keys[start + first : start + last]
                layer.values[to + first : to + last] = layer.values[start + first : start + last]

    def drop(self) -> None:
        """Give the memory back. Only when no sequence is running."""
        for layer in self.layers:
            layer.drop()


def _room_for(states: Tensor, tokens: int) -> Tensor:
    return torch.empty(tokens, states.shape[1], states.shape[3], dtype=states.dtype, device=states.device)
