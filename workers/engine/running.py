"""Who is in the manager of the engine `paged`, and how much room they leave. No tensor, no thread, no clock."""

import itertools
from collections.abc import Iterator

from workers.engine.pages import Pages
from workers.engine.sequence import Sequence


class Running:
    """Requests by name; each has the pages of its whole answer from the beginning."""

    def __init__(self, pages: Pages) -> None:
        self._pages, self._free = pages, pages.room
        self._by_name: dict[str, Sequence] = {}
        self._brought: dict[str, int] = {}
        self._names = itertools.count()

    def __len__(self) -> int:
        return len(self._by_name)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._by_name.values())

    @property
    def room_tokens(self) -> int:
        """The cache that requests may have."""
        return self._pages.longest

    @property
    def used_tokens(self) -> int:
        """The cache that they have, in whole pages."""
        return (self._pages.room - self._free) * self._pages.page_tokens

    def next_name(self) -> str:
        """A name that no request had before: a late output of one that left goes to nobody else."""
        return str(next(self._names))

    def get(self, name: str) -> Sequence | None:
        return self._by_name.get(name)

    def brought(self, name: str) -> int:
        """How many tokens of its answer it had before; the manager takes them for the prompt's."""
        return self._brought[name]

    def has_room(self, sequence: Sequence) -> bool:
        return self._size(sequence) <= self._free

    def add(self, name: str, sequence: Sequence) -> None:
        self._by_name[name], self._brought[name] = sequence, len(sequence.new)
        self._free -= self._size(sequence)

    def remove(self, sequence: Sequence) -> str | None:
        """Its name, if it was here."""
        for name, each in self._by_name.items():
            if each is sequence:
                del self._by_name[name], self._brought[name]
                self._free += self._size(sequence)
                return name
        return None

    def _size(self, sequence: Sequence) -> int:
        return self._pages.needed(len(sequence.prompt) + sequence.max_new)
