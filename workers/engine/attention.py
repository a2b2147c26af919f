"""Attention of one packed forward: tokens of many sequences in one row, each sees its own sequence in the cache alone.

Registered with transformers under the name `PACKED`; the model hands through the keyword `batch`. A sequence that
decodes has one query: its query heads that share a key head are attended to as if they were positions, so the keys are
neither repeated nor copied. Sequences side by side in the cache are attended to in one call, when what they are padded
with costs less than the call.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

PACKED = "switchyard_packed"
UNKNOWN = ("softcap", "s_aux", "position_bias")  # change the result; who passes one is refused


@dataclass(frozen=True, slots=True)
class Piece:
    """Queries `begin` to `end` of a forward: consecutive tokens of one prompt, the first at position `first`."""

    begin: int
    end: int
    start: int  # of the sequence in the cache
    first: int


@dataclass(frozen=True, slots=True)
class Group:
    """Queries `begin` to `end` of a forward: one token each of sequences side by side in the cache."""

    begin: int
    end: int
    start: int  # of the first sequence in the cache
    stride: int  # from one sequence to the next
    lengths: tuple[int, ...]  # tokens of each, with this one


@dataclass(slots=True)
class Batch:
    """What attention knows of a forward. Masks are made once a forward and used by all layers."""

    pieces: Sequence[Piece]
    groups: Sequence[Group]
    masks: dict[tuple[Piece | Group, int | None], Tensor | None] = field(default_factory=dict)

    def mask(self, part: Piece | Group, window: int | None, like: Tensor) -> Tensor | None:
        """Float mask to add to the scores, 0 where a query sees; None if it sees all, or a prompt from its start."""
        if (part, window) not in self.masks:
            self.masks[part, window] = (
                _piece_mask(part, window, like) if isinstance(part, Piece) else _group_mask(part, window, like)
            )
        return self.masks[part, window]


def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    batch: Batch | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend to the cache. query [1, heads, n, head size]; key, value: a whole layer [tokens, key heads, head size].

    Returns:
        [1, n, heads, value size], and None for the weights.

    Raises:
        ValueError: the model asks for something that is not done here.
    """
    if batch is None or attention_mask is not None or any(kwargs.get(name) is not None for name in UNKNOWN):
        raise ValueError("its attention takes more than queries, keys, values and a sliding window")
    queries = query[0].transpose(0, 1)
    found = queries.new_empty(*queries.shape[:2], value.shape[2])
    for piece in batch.pieces:
        mask = batch.mask(piece, sliding_window, query)
        found[piece.begin : piece.end] = _attend_piece(piece, queries, key, value, mask, scaling)
    for group in batch.groups:
        mask = batch.mask(group, sliding_window, query)
        found[group.begin : group.end] = _attend_group(group, queries, key, value, mask, scaling)
    return found[None], None


AttentionInterface.register(PACKED, packed_attention)


def _attend_piece(
    piece: Piece, queries: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None
) -> Tensor:
    """Prompt tokens [n, heads, value size], each sees its sequence up to itself."""
    last = piece.start + piece.first + piece.end - piece.begin
    found = F.scaled_dot_product_attention(
        queries[piece.begin : piece.end].transpose(0, 1)[None],
        key[piece.start : last].transpose(0, 1)[None],
        value[piece.start : last].transpose(0, 1)[None],
        attn_mask=mask,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=key.shape[1] != queries.shape[1],
    )
    return found[0].transpose(0, 1)


def _attend_group(
    group: Group, queries: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None
) -> Tensor:
    """One token of each sequence [n, heads, value size]."""
    heads, key_heads = queries.shape[1], key.shape[1]
    rows = queries[group.begin : group.end].reshape(-1, key_heads, heads // key_heads, queries.shape[2])
    found = F.scaled_dot_product_attention(
        rows, _side_by_side(group, key), _side_by_side(group, value), attn_mask=mask, scale=scaling
    )
    return found.flatten(1, 2)


def _side_by_side(group: Group, store: Tensor) -> Tensor:
    """The group's part of a layer, as a view [sequences, key heads, longest, head size]."""
    _, heads, size = store.shape
    return store.as_strided(
        (len(group.lengths), heads, max(group.lengths), size),
        (group.stride * heads * size, size, heads * size, 1),
        store.storage_offset() + group.start * heads * size,
    )


def _piece_mask(piece: Piece, window: int | None, like: Tensor) -> Tensor | None:
    last = piece.first + piece.end - piece.begin
    if piece.first == 0 and (window is None or window >= last):
        return None
    positions = torch.arange(piece.first, last, device=like.device)[:, None]
    return _as_float(_seen(positions, last, window), like)


def _group_mask(group: Group, window: int | None, like: Tensor) -> Tensor | None:
    longest = max(group.lengths)
    if min(group.lengths) == longest and (window is None or window >= longest):
        return None
    positions = torch.tensor(group.lengths, device=like.device)[:, None] - 1
    return _as_float(_seen(positions, longest, window), like)[:, None, None]


def _seen(positions: Tensor, length: int, window: int | None) -> Tensor:
    """Bool [n, length]: what the tokens at these positions [n, 1] see."""
    keys = torch.arange(length, device=positions.device)
    seen = keys <= positions
    return seen if window is None else seen & (keys > positions - window)


def _as_float(seen: Tensor, like: Tensor) -> Tensor:
    return torch.zeros(seen.shape, dtype=like.dtype, device=like.device).masked_fill_(~seen, float("-inf"))
