"""Who runs, and what the next step computes. Policy only: no tensor, no thread, no clock.

A request joins when a slot is free and the cache has a span for its prompt and its longest possible answer; nobody is
moved or put back after that. Each step puts a budget of prompt tokens into the cache, of as many prompts as it takes,
and one token of everybody whose prompt is in.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workers.engine.interface import Finish
from workers.engine.sequence import Sequence
from workers.engine.spans import Span, Spans
from workers.engine.waiting import Waiting

if TYPE_CHECKING:
    from workers.engine.adapted import Adapter


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
    """One step: zero what is fresh, then all chunks and rows in one forward. Rows are in the order of their spans.

    Everything before the first token of a sequence's chunks and rows is in the cache already: put there by earlier
    steps, or before it joined.
    """

    fresh: tuple[Span, ...]
    chunks: tuple[Chunk, ...]
    rows: tuple[Row, ...]


class Scheduler:
    """Lets sequences join by priority, then arrival; prompts get at most `prefill_tokens` a step between two tokens."""

    def __init__(self, *, slots: int, prefill_tokens: int, cache_tokens: int) -> None:
        self._slots = slots
        self._prefill_tokens = prefill_tokens
        self._spans = Spans(cache_tokens)
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
        """Tokens of the cache that nobody has."""
        return self._spans.free

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
        """Free its slot and its span, or its place in the line."""
        span = self._running.pop(sequence, None)
        if span is None:
            self._waiting.discard(sequence)
        else:
            self._spans.give(span)

    def plan(self) -> Plan:
        """The next step. Whoever is told to run it must run all of it: the counts are already advanced."""
        chunks = tuple(self._chunks())
        rows = sorted(self._rows(), key=lambda row: row.span.start)
        fresh, self._fresh = tuple(self._fresh), []
        return Plan(fresh, chunks, tuple(rows))

    def _chunks(self) -> Iterator[Chunk]:
        budget = self._prefill_tokens
        for sequence in self._to_prefill():
            start, end = sequence.cached, sequence.cached + min(budget, sequence.to_prefill)
            if end > start:
                yield Chunk(self._running[sequence], start, sequence.prompt[start:end], sequence.adapter)
            sequence.cached = end
            budget -= max(end - start, 1)  # a prompt of one token counts too: its row is work
            if budget <= 0:
                return

    def _rows(self) -> Iterator[Row]:
        for sequence, span in self._running.items():
            if not sequence.to_prefill:
                yield Row(sequence, span, sequence.next_input, sequence.cached)
                sequence.cached += 1

    def _to_prefill(self) -> Iterator[Sequence]:
        """Those whose prompts are not yet in the cache, then who joins, as long as there is room."""
        yield from [sequence for sequence in self._running if sequence.to_prefill]
        while (sequence := self._join()) is not None:
            yield sequence

    def _join(self) -> Sequence | None:
        """The next of the line, if there is a slot and a span for it. Nobody overtakes it: it would wait for ever."""
        if len(self._running) == self._slots or not self._waiting:
            return None
        sequence = self._waiting.peek()
        span = self._spans.take(sequence.most_tokens)
        if span is None:
            return None
        self._waiting.pop()
        self._running[sequence] = span
        self._fresh.append(Span(span.start + sequence.cached, span.tokens - sequence.cached))
        sequence.handle.begin()
        return sequence
