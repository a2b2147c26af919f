"""Who runs, and what the next step computes. Policy only: no tensor, no thread, no clock.

A request joins when a slot is free and the cache has a span for its prompt and its longest possible answer. Each step
puts a budget of prompt tokens into the cache, shared by those whose prompts are not yet in, and one token of everybody
whose prompt is. When the device has no memory for a step, the next ones do less (see `ease`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workers.engine.figures import End
from workers.engine.places import Copy, Places
from workers.engine.sequence import Sequence
from workers.engine.spans import Span
from workers.engine.waiting import Waiting

if TYPE_CHECKING:
    from workers.engine.adapted import Adapter

SMALLEST_PREFILL = 16  # tokens
LOOK_AHEAD = 8  # of the line
WELL_STEPS = 64  # so many steps must have had enough memory before they do more again


@dataclass(frozen=True, slots=True)
class Chunk:
    """Put these tokens of a prompt into its span, the first at position `start`; those before it are in the cache."""

    span: Span
    start: int
    tokens: list[int]
    adapter: "Adapter | None" = None


@dataclass(frozen=True, slots=True)
class Row:
    """Put one token into the sequence's span at `position`, and ask for the token that follows."""

    sequence: Sequence
    span: Span
    token: int
    position: int


@dataclass(frozen=True, slots=True)
class Plan:
    """One step: copy one after another, zero what is fresh, then all chunks and rows in one forward.

    Rows are in the order of their spans.

    Everything before the first token of a sequence's chunks and rows is in the cache already: put there by earlier
    steps, or before it joined.
    """

    fresh: tuple[Span, ...]
    chunks: tuple[Chunk, ...]
    rows: tuple[Row, ...]
    copies: tuple[Copy, ...] = ()

    @property
    def prompt_tokens(self) -> int:
        """How many tokens of prompts go in; of an answer that begins anew too, all but its last."""
        firsts = sum(not row.sequence.new for row in self.rows)
        return sum(len(chunk.tokens) for chunk in self.chunks) + firsts


class Scheduler:
    """Lets sequences join by priority, then arrival; prompts get at most `prefill_tokens` a step between two tokens.

    `places` counts what is reused; `prefilled_tokens`: of prompts, put into the cache.
    """

    def __init__(self, *, slots: int, prefill_tokens: int, cache_tokens: int) -> None:
        self._slots = self._most_running = slots
        self._prefill_tokens = self._prefill_now = prefill_tokens
        self._well = 0  # steps that had memory enough, since one had not or since the limits were raised
        self.places = Places(cache_tokens)
        self.prefilled_tokens = 0
        self._waiting: Waiting[Sequence] = Waiting()
        self._running: dict[Sequence, Span] = {}  # in the order of joining, which is the order of prefilling
        self._fresh: list[Span] = []  # of those that joined since the last plan

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def free_tokens(self) -> int:
        """Tokens of the cache that nobody who runs has."""
        return self.places.free

    @property
    def used_tokens(self) -> int:
        """Tokens of the cache that those who run have. From any thread."""
        return sum(span.tokens for span in list(self._running.values()))

    def in_flight(self) -> list[Sequence]:
        """Those that have a slot, in the order of joining."""
        return list(self._running)

    def add(self, sequence: Sequence, *, now_s: float) -> None:
        sequence.arrived_s = now_s
        self._waiting.add(sequence, priority=sequence.request.priority, now_s=now_s)

    def __iter__(self) -> Iterator[Sequence]:
        """Every sequence, running or waiting."""
        yield from self._running
        yield from self._waiting

    def __len__(self) -> int:
        return len(self._running) + len(self._waiting)

    def ended(self, now_s: float) -> list[tuple[Sequence, End]]:
        """Those that were cancelled, whose deadline has passed or whose reader failed, running or waiting."""
        return [(sequence, reason) for sequence in self if (reason := sequence.ended_by(now_s))]

    def remove(self, sequence: Sequence) -> None:
        """Free its slot, or its place in the line. What it has in the cache is kept as long as there is room."""
        if sequence in self._running:
            self.places.give(sequence, self._leave(sequence))
        else:
            self._waiting.discard(sequence)

    def plan(self) -> Plan:
        """The next step. The counts are already advanced: whoever cannot run all of it must `ease` the load."""
        self._recover()
        self.places.begin_step(self._running)
        chunks = tuple(self._chunks())
        rows = sorted(self._rows(), key=lambda row: row.span.start)
        fresh, self._fresh = tuple(self._fresh), []
        return Plan(fresh, chunks, tuple(rows), self.places.copies())

    def ease(self, plan: Plan) -> bool:
        """There was no memory to run this plan: the next one begins where it did and does less.

        Fewer prompt tokens first, then one sequence less: the youngest goes back to the line and begins anew later,
        with what it has written. Both limits are raised again bit by bit. False: it was one sequence alone.
        """
        self._take_back(plan)
        self._well = 0
        if plan.chunks and self._prefill_now > SMALLEST_PREFILL:
            self._prefill_now = max(SMALLEST_PREFILL, self._prefill_now // 2)
            return True
        if len(self._running) == 1:
            return False
        self._put_back(next(reversed(self._running)))
        self._most_running = len(self._running)
        return True

    def _take_back(self, plan: Plan) -> None:
        owners = {span: sequence for sequence, span in self._running.items()}
        for row in plan.rows:
            row.sequence.cached = row.position
        for chunk in plan.chunks:
            owners[chunk.span].cached = chunk.start
            self.prefilled_tokens -= len(chunk.tokens)
        self._fresh[:0] = plan.fresh  # its copies are done, and what they were made of may be gone

    def _put_back(self, sequence: Sequence) -> None:
        self.places.give_up(sequence, self._leave(sequence))
        self._waiting.add(sequence, priority=sequence.request.priority, now_s=sequence.arrived_s)

    def _leave(self, sequence: Sequence) -> Span:
        """Its span is somebody else's from now on: zeroing what was fresh for it would wipe what is copied there."""
        span = self._running.pop(sequence)
        self._fresh = [fresh for fresh in self._fresh if not span.start <= fresh.start < span.end]
        return span

    def _recover(self) -> None:
        self._well += 1
        if self._well >= WELL_STEPS:
            self._well = 0
            self._prefill_now = min(self._prefill_tokens, 2 * self._prefill_now)
            self._most_running = min(self._slots, self._most_running + 1)

    def _chunks(self) -> Iterator[Chunk]:
        """Prompts share the budget: half is for who joined first, the rest for those with the least left to do.

        So nobody's short question waits for the whole of somebody else's long prompt, nor that one for ever.
        """
        while self._join() is not None:
            pass
        unread = [sequence for sequence in self._running if sequence.to_prefill]
        share = self._shares(unread)
        for sequence in unread:
            if share[sequence]:
                start, end = sequence.cached, sequence.cached + share[sequence]
                yield Chunk(self._running[sequence], start, sequence.tokens(start, end), sequence.adapter)
                sequence.begin()
                sequence.cached = end
                self.prefilled_tokens += share[sequence]

    def _shares(self, unread: list[Sequence]) -> dict[Sequence, int]:
        """How many tokens of each prompt go in now. `unread`: those that have some left, in the order of joining."""
        shares: dict[Sequence, int] = {}
        left = self._prefill_now
        for first in unread[:1]:
            shares[first] = min(first.to_prefill, (left + 1) // 2)
            left -= shares[first]
        for sequence in sorted(unread[1:], key=lambda one: (-one.request.priority, one.to_prefill)):
            shares[sequence] = min(sequence.to_prefill, left)
            left -= shares[sequence]
        for first in unread[:1]:
            shares[first] += min(first.to_prefill - shares[first], left)
        return shares

    def _rows(self) -> Iterator[Row]:
        for sequence, span in self._running.items():
            if not sequence.to_prefill:
                yield Row(sequence, span, sequence.next_input, sequence.cached)
                if not sequence.new:
                    sequence.begin()
                sequence.cached += 1

    def _join(self) -> Sequence | None:
        """The next of the line, if there is a slot and a span for it.

        Nobody overtakes one that waits for room: it would wait for ever. Who waits for a beginning that somebody else
        is computing lets a few others go first.
        """
        if len(self._running) >= self._most_running:
            return None
        for sequence in self._waiting.first(LOOK_AHEAD):
            if not self.places.has_room(sequence):
                return None
            if self.places.awaits_beginning(sequence):
                continue
            span = self.places.take(sequence)
            if span is None:
                return None
            self._waiting.discard(sequence)
            self._running[sequence] = span
            self._fresh.append(Span(span.start + sequence.cached, span.tokens - sequence.cached))
            return sequence
        return None
