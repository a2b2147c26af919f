"""Who runs in which slot, and what the next step computes. Policy only: no tensor, no thread, no clock.

Slot i of the cache belongs to the i-th running sequence. Those that decode come first, then at most one whose prompt
is half in the cache. So a decoding step works on slots 0..n-1, which are a view of the cache and no copy. The price:
when a sequence leaves, another one moves into its slot.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from workers.engine.interface import Finish
from workers.engine.sequence import Sequence
from workers.engine.waiting import Waiting


@dataclass(frozen=True, slots=True)
class Move:
    """Copy the keys and values of the first `tokens` tokens from one slot to another."""

    source: int
    target: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Put these tokens of a prompt into a slot, the first at position `start`."""

    slot: int
    start: int
    tokens: list[int]


@dataclass(frozen=True, slots=True)
class Row:
    """Put one token into the slot that is this row's place in the plan, and ask for the token that follows."""

    sequence: Sequence
    token: int
    position: int


@dataclass(frozen=True, slots=True)
class Plan:
    """One step, in this order: moves, chunks of prompts, then one token for every row; row i is slot i."""

    moves: tuple[Move, ...]
    chunks: tuple[Chunk, ...]
    rows: tuple[Row, ...]


class Scheduler:
    """Fills the slots by priority, then arrival; prompts get at most `prefill_tokens` a step between two tokens."""

    def __init__(self, *, slots: int, prefill_tokens: int) -> None:
        self._slots = slots
        self._prefill_tokens = prefill_tokens
        self._waiting: Waiting[Sequence] = Waiting()
        self._running: list[Sequence] = []  # the index is the slot
        self._moves: list[Move] = []  # of sequences that left since the last plan

    def add(self, sequence: Sequence, *, now_s: float) -> None:
        self._waiting.add(sequence, priority=sequence.request.priority, now_s=now_s)

    def __iter__(self) -> Iterator[Sequence]:
        """Every sequence, running or waiting."""
        yield from self._running
        yield from self._waiting

    def __len__(self) -> int:
        return len(self._running) + len(self._waiting)

    def ended(self, now_s: float) -> list[tuple[Sequence, Finish]]:
        """Those that were cancelled or whose deadline has passed, running or waiting."""
        return [(sequence, reason) for sequence in self if (reason := sequence.ended_by(now_s))]

    def remove(self, sequence: Sequence) -> None:
        """Free its slot, or its place in the line. The plan that follows carries the moves."""
        if sequence in self._running:
            self._free(self._running.index(sequence))
        else:
            self._waiting.discard(sequence)
        if not self._running:
            self._moves.clear()

    def _free(self, hole: int) -> None:
        filling = self._running.pop() if self._running[-1].to_prefill else None  # must stay behind those that decode
        if hole == len(self._running):  # it was the one that left
            return
        last = self._running.pop()
        if hole < len(self._running):
            self._move(last, len(self._running), hole)
            self._running[hole] = last
        if filling is not None:
            self._move(filling, len(self._running) + 1, len(self._running))
            self._running.append(filling)

    def plan(self) -> Plan:
        """The next step. Whoever is told to run it must run all of it: the counts are already advanced."""
        moves, self._moves = tuple(self._moves), []
        return Plan(moves, tuple(self._chunks()), tuple(self._rows()))

    def _chunks(self) -> Iterator[Chunk]:
        budget = self._prefill_tokens
        while budget > 0 and (sequence := self._next_to_prefill()) is not None:
            start, end = sequence.cached, sequence.cached + min(budget, sequence.to_prefill)
            if end > start:
                yield Chunk(self._running.index(sequence), start, sequence.prompt[start:end])
            sequence.cached = end
            budget -= max(end - start, 1)

    def _rows(self) -> Iterator[Row]:
        for sequence in self._running:
            if not sequence.to_prefill:
                yield Row(sequence, sequence.next_input, sequence.cached)
                sequence.cached += 1

    def _next_to_prefill(self) -> Sequence | None:
        """The one that is half in the cache, or the next of the line if a slot is free."""
        if self._running and self._running[-1].to_prefill:
            return self._running[-1]
        if len(self._running) == self._slots or not self._waiting:
            return None
        joining = self._waiting.pop()
        joining.handle.begin()
        self._running.append(joining)
        return self._running[-1]

    def _move(self, sequence: Sequence, source: int, target: int) -> None:
        if sequence.cached:
            self._moves.append(Move(source, target, sequence.cached))
