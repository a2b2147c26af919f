"""Where in the cache each sequence is, and what stays there of those that have ended. Numbers only: no tensor.

A follow-up brings the whole conversation again, and everybody brings the system prompt: what is in the cache need not
be computed twice. Nothing of somebody's text shows in somebody else's answer, since a part is used only where the
tokens are equal. How soon a first token comes can tell that such a beginning was computed before; what is kept dies
with the process.
"""

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from workers.engine.sequence import Sequence
from workers.engine.spans import Span, Spans

WORTH = 16  # tokens: to copy fewer, or to keep them, saves nothing


@dataclass(frozen=True, slots=True)
class Copy:
    """Copy so many tokens of the cache from one place to another; the two may overlap."""

    start: int
    to: int
    tokens: int


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Tokens that are in the cache from the start of a span. `kind`: what else their keys and values depend on."""

    span: Span
    tokens: list[int]
    kind: Hashable


class Places:
    """Spans for sequences, with what can be reused at their beginning.

    `reused_tokens`: found in the cache; `evictions`: of kept spans, for want of room.
    """

    def __init__(self, tokens: int) -> None:
        self.reused_tokens = self.evictions = 0
        self._spans = Spans(tokens)
        self._kept: OrderedDict[Span, Found] = OrderedDict()  # the least recently used first
        self._running: list[tuple[Sequence, Span, int]] = []
        self._joined: list[Sequence] = []
        self._copies: list[Copy] = []

    @property
    def free(self) -> int:
        """Tokens of the cache that nobody who runs has."""
        return self._spans.free + sum(span.tokens for span in self._kept)

    @property
    def kept(self) -> int:
        """How many sequences that have ended are still there."""
        return len(self._kept)

    def begin_step(self, running: Mapping[Sequence, Span]) -> None:
        """A step is planned: what is there now, of those that run, may be copied for those who join in it."""
        self._running = [(one, span, one.cached) for one, span in running.items()]
        self._joined = []

    def copies(self) -> tuple[Copy, ...]:
        """Those that the sequences since the last call need, to be made one after another before anything else."""
        copies, self._copies = tuple(self._copies), []
        return copies

    def take(self, sequence: Sequence) -> Span | None:
        """A span for a sequence, whose `cached` is then what is in it already; None if there is no room now.

        A span that was kept is taken over if all of it is the sequence's beginning, or nearly, and it has the size that
        the sequence gets: in a larger one it would hold room that others wait for.
        """
        if not self.has_room(sequence):
            return None
        size = self._spans.size(sequence.most_tokens)
        source, common = self._like(sequence)
        is_kept = source is not None and source.span in self._kept
        follows = is_kept and source is not None and len(source.tokens) - common < WORTH
        if source is not None and follows and source.span.tokens == size:
            del self._kept[source.span]
            return self._begin(sequence, source.span, common)
        if source is not None and is_kept:
            self._kept.move_to_end(source.span)  # it goes after all others
        span = self._make_room(sequence.most_tokens)
        if span is None:
            return None
        if source is not None:  # its place may be in the span by now: copies come before all that is written
            self._copies.append(Copy(source.span.start, span.start, common))
            if follows and source.span in self._kept:
                self._let_go(source.span)
        return self._begin(sequence, span, common)

    def has_room(self, sequence: Sequence) -> bool:
        """Whether those who run leave as many tokens as a sequence may need; there may still be no span of them."""
        return self.free >= self._spans.size(sequence.most_tokens)

    def awaits_beginning(self, sequence: Sequence) -> bool:
        """Whether somebody who runs is computing more of a sequence's beginning than is there now: worth a wait."""
        wanted, (_, common) = _reusable(sequence), self._like(sequence)
        others = [one for one, _, _ in self._running] + self._joined
        return any(one.kind == sequence.kind and common_prefix(wanted, one.prompt) >= common + WORTH for one in others)

    def give(self, sequence: Sequence, span: Span) -> None:
        """A sequence ends. What it has in the cache is kept as long as there is room."""
        if sequence.spoiled or sequence.cached < WORTH:
            self._spans.give(span)
        else:
            self._kept[span] = Found(span, sequence.tokens(0, sequence.cached), sequence.kind)

    def give_up(self, sequence: Sequence, span: Span) -> None:
        """A sequence leaves its place and begins anew elsewhere."""
        self._spans.give(span)
        sequence.cached = 0

    def forget(self) -> None:
        """Keep nothing of those that have ended, and copy nothing that nobody has copied yet."""
        self._copies = []
        while self._kept:
            self._let_go(next(iter(self._kept)))

    def _begin(self, sequence: Sequence, span: Span, common: int) -> Span:
        sequence.cached = common
        self.reused_tokens += common
        self._joined.append(sequence)
        return span

    def _like(self, sequence: Sequence) -> tuple[Found | None, int]:
        """Where the longest beginning of a sequence is, and how many tokens; (None, 0) if none is worth it."""
        wanted = _reusable(sequence)
        best, longest = None, WORTH - 1
        running = [Found(span, one.tokens(0, count), one.kind) for one, span, count in self._running]
        for found in (*self._kept.values(), *running):
            if found.kind == sequence.kind and len(found.tokens) > longest:
                common = common_prefix(wanted, found.tokens)
                if common > longest:
                    best, longest = found, common
        return best, longest if best is not None else 0

    def _make_room(self, tokens: int) -> Span | None:
        """A span, if need be in place of what is kept; None if those who run leave no room in one piece."""
        span = self._spans.take(tokens)
        if span is None and self._spans.would_have(tokens, self._kept):
            while (span := self._spans.take(tokens)) is None:
                self._let_go(next(iter(self._kept)))
                self.evictions += 1
        return span

    def _let_go(self, span: Span) -> None:
        del self._kept[span]
        self._spans.give(span)


def _reusable(sequence: Sequence) -> list[int]:
    """All of its tokens but the last, which is always computed."""
    return sequence.tokens(0, len(sequence.prompt) + len(sequence.new) - 1)


def common_prefix(one: list[int], other: list[int]) -> int:
    """How many tokens two lists begin with alike, by few comparisons of whole slices."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
