"""Who waits for a slot, and who is next. No clock, no thread, no tensor."""

import heapq
import itertools
from collections.abc import Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")

AGEING_S = 10.0  # one step of priority is worth so much waiting: nobody waits for ever behind the favoured


class Waiting(Generic[Item]):
    """Items by priority, then arrival. A priority is a head start of AGEING_S a step, so the low ones age past it."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Item]] = []
        self._count = itertools.count()

    def add(self, item: Item, *, priority: int, now_s: float) -> None:
        heapq.heappush(self._heap, (now_s - priority * AGEING_S, next(self._count), item))

    def peek(self) -> Item:
        """The next one, who stays in the line. Raises IndexError if nobody waits."""
        return self._heap[0][2]

    def first(self, count: int) -> list[Item]:
        """The next ones in their order, at most so many; they stay in the line."""
        return [item for _, _, item in heapq.nsmallest(count, self._heap)]

    def pop(self) -> Item:
        """The next one. Raises IndexError if nobody waits."""
        return heapq.heappop(self._heap)[2]

    def discard(self, item: Item) -> None:
        """Take out one that will not wait any longer; nothing happens if it is not here."""
        kept = [entry for entry in self._heap if entry[2] is not item]
        if len(kept) < len(self._heap):
            self._heap = kept
            heapq.heapify(self._heap)

    def __iter__(self) -> Iterator[Item]:
        return (entry[2] for entry in self._heap)

    def __len__(self) -> int:
        return len(self._heap)
