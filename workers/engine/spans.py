"""Which part of the cache belongs to whom. Numbers only: no tensor, no thread.

A sequence gets a span of adjacent tokens that holds its prompt and its longest possible answer, so it never runs out in
the middle and is never moved. Spans of one size stand side by side on a shelf where there is room for one: neighbours
can then be attended to in one call.
"""

import copy
from bisect import insort
from collections.abc import Iterable
from dataclasses import dataclass, field

SMALLEST = 64  # tokens
SHELF_SPANS = 8  # most spans of a shelf
SHELF_SHARE = 4  # a shelf takes at most this part of what is free, so that a small cache is not hoarded


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens `start` to `start + tokens` of the cache."""

    start: int
    tokens: int

    @property
    def end(self) -> int:
        return self.start + self.tokens


def span_tokens(tokens: int) -> int:
    """The size of the span that so many tokens get: 64, 96, 128, 192, 256, 384 and so on, at most half too large."""
    power = SMALLEST
    while 2 * power <= tokens:
        power *= 2
    if tokens <= power:
        return power
    return power + power // 2 if tokens <= power + power // 2 else 2 * power


class Spans:
    """Hands out spans of a cache of `tokens` tokens."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self._gaps = [(0, tokens)] if tokens else []  # (start, end) outside all shelves, in order, never touching
        self._shelves: list[_Shelf] = []

    @property
    def free(self) -> int:
        """Tokens that nobody has; not always in one piece."""
        return self._outside() + sum(len(shelf.open) * shelf.tokens for shelf in self._shelves)

    def size(self, tokens: int) -> int:
        """The size of the span that so many tokens get here."""
        return min(span_tokens(tokens), self.tokens)

    def take(self, tokens: int) -> Span | None:
        """A span for so many tokens; None if there is no room now. An empty cache has room for `self.tokens`."""
        size = self.size(tokens)
        shelf = next((one for one in self._shelves if one.tokens == size and one.open), None) or self._build(size)
        return None if shelf is None else Span(shelf.open.pop(0), size)

    def would_have(self, tokens: int, given: Iterable[Span]) -> bool:
        """Whether there is a span for so many tokens once these are given back."""
        trial = copy.deepcopy(self)
        for span in given:
            trial.give(span)
        return trial.take(tokens) is not None

    def give(self, span: Span) -> None:
        """Take back what `take` returned."""
        shelf = next(one for one in self._shelves if one.start <= span.start < one.end)
        insort(shelf.open, span.start)
        if len(shelf.open) * shelf.tokens == shelf.end - shelf.start:
            self._shelves.remove(shelf)
            self._open_gap(shelf.start, shelf.end)

    def _outside(self) -> int:
        return sum(end - start for start, end in self._gaps)

    def _build(self, size: int) -> "_Shelf | None":
        """A shelf at the first place that has room for it."""
        spans = max(1, min(SHELF_SPANS, self._outside() // (SHELF_SHARE * size)))
        for wanted in (spans, 1):
            for start, end in self._gaps:
                if end - start >= wanted * size:
                    return self._cut(start, end, size, wanted)
        return None

    def _cut(self, start: int, end: int, size: int, spans: int) -> "_Shelf":
        shelf = _Shelf(start, start + spans * size, size, [start + n * size for n in range(spans)])
        self._gaps.remove((start, end))
        if shelf.end < end:
            insort(self._gaps, (shelf.end, end))
        self._shelves.append(shelf)
        return shelf

    def _open_gap(self, start: int, end: int) -> None:
        before = [gap for gap in self._gaps if gap[1] == start]
        after = [gap for gap in self._gaps if gap[0] == end]
        for gap in before + after:
            self._gaps.remove(gap)
        insort(self._gaps, (before[0][0] if before else start, after[0][1] if after else end))


@dataclass(slots=True)
class _Shelf:
    """Spans of one size side by side; `open` are the starts of those that nobody has, in order."""

    start: int
    end: int
    tokens: int
    open: list[int] = field(default_factory=list)
