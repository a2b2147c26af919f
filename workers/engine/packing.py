"""A plan -> the tensors and the groups of one packed forward. The tensors are made once and filled again each step."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.adapted import Adapter, Part
from workers.engine.attention import Batch, Group, Piece
from workers.engine.scheduler import Plan, Row

# A further call of attention costs about as much as reading so many tokens of padding: on a CPU little beside reading,
# on a GPU much. Measured on one core: 9 us a call, 0.15 us a token of SmolLM2-135M in float32.
CALL_COST_TOKENS = {"cpu": 64, "cuda": 1 << 20}


@dataclass(frozen=True, slots=True)
class Packed:
    """One forward: tokens of prompts first, then one token of each row."""

    tokens: Tensor  # int64 [1, n]
    positions: Tensor  # int64 [1, n], each in its own sequence
    places: Tensor  # int64 [n], in the cache
    batch: Batch
    parts: tuple[Part, ...] = ()  # tokens that have an adapter


class Packing:
    """Packs plans of at most `tokens` tokens, prompts and rows together."""

    def __init__(self, tokens: int, device: torch.device) -> None:
        self._device = device
        self._call_cost = CALL_COST_TOKENS.get(device.type, CALL_COST_TOKENS["cuda"])
        self._host = torch.empty(4, tokens, dtype=torch.int64, pin_memory=device.type == "cuda")
        self._there = self._host if device.type == "cpu" else torch.empty_like(self._host, device=device)

    def pack(self, plan: Plan) -> Packed:
        """Fill the tensors. They are overwritten by the next call."""
        tokens: list[int] = []
        positions: list[int] = []
        places: list[int] = []
        pieces: list[Piece] = []
        having: dict[Adapter, list[int]] = {}  # its tokens' places in the forward, in order
        for chunk in plan.chunks:
            here = range(chunk.start, chunk.start + len(chunk.tokens))
            if chunk.adapter is not None:
                having.setdefault(chunk.adapter, []).extend(range(len(tokens), len(tokens) + len(here)))
            pieces.append(Piece(len(tokens), len(tokens) + len(here), chunk.span.start, chunk.start))
            tokens += chunk.tokens
            positions += here
            places += range(chunk.span.start + here.start, chunk.span.start + here.stop)
        before = len(tokens)
        for row in plan.rows:
            if row.sequence.adapter is not None:
                having.setdefault(row.sequence.adapter, []).append(len(tokens))
            tokens.append(row.token)
            positions.append(row.position)
            places.append(row.span.start + row.position)
        numbers = [tokens, positions, places]
        if having:
            order = [at for whose in having.values() for at in whose]
            numbers.append(order + [0] * (len(tokens) - len(order)))
        self._host[: len(numbers), : len(tokens)] = torch.tensor(numbers)
        if self._there is not self._host:
            # Waits for the copy: a step without rows asks the device for nothing, and the next one fills these again.
            self._there[: len(numbers), : len(tokens)].copy_(self._host[: len(numbers), : len(tokens)])
        filled = self._there[:, : len(tokens)]
        groups = list(grouped(plan.rows, first=before, call_cost=self._call_cost))
        return Packed(filled[0:1], filled[1:2], filled[2], Batch(pieces, groups), tuple(_parts(having, filled[3])))


def _parts(having: dict[Adapter, list[int]], order: Tensor) -> Iterator[Part]:
    """The tokens of each adapter. `order` int64 [n]: the places of all of them, adapter by adapter."""
    at = 0
    for adapter, places in having.items():
        begin, end = places[0], places[-1] + 1
        adjacent = end - begin == len(places)
        yield Part(adapter, begin, end, None if adjacent else order[at : at + len(places)])
        at += len(places)


def grouped(rows: Sequence[Row], *, first: int, call_cost: int) -> Iterator[Group]:
    """Rows in the order of their spans -> groups side by side. `first`: the first row's place in the forward.

    A row joins the group before it if that pads no more than `call_cost` tokens.
    """
    begin = 0
    for at in range(1, len(rows) + 1):
        if at == len(rows) or not _joins(rows[begin:at], rows[at], call_cost):
            members = rows[begin:at]
            span = members[0].span
            lengths = tuple(row.position + 1 for row in members)
            yield Group(first + begin, first + at, span.start, span.tokens, lengths)
            begin = at


def _joins(members: Sequence[Row], row: Row, call_cost: int) -> bool:
    last = members[-1].span
    if (last.end, last.tokens) != (row.span.start, row.span.tokens):
        return False
    longest = max(member.position for member in members)
    more = row.position - longest
    return (more * len(members) if more > 0 else -more) <= call_cost
