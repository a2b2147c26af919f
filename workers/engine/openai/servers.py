"""Which server takes the next request: the least busy one whose circuit is closed. Policy only: no socket, no clock.

A circuit opens when a server is down, or has failed three times in a row; then the server rests, twice as long after
each further failure. After its rest it gets one request at a time; the first token closes the circuit.
"""

import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from workers.engine.openai.failures import Blame, Failure

FAILURES: Final = 3  # in a row, of a server that answers at all
FIRST_REST_S: Final = 1.0
LONGEST_REST_S: Final = 30.0
_AT_ONCE: Final[frozenset[Blame]] = frozenset(("down", "setting"))  # the next request would meet the same
_INNOCENT: Final[frozenset[Blame]] = frozenset(("busy", "absent"))


@dataclass(eq=False, slots=True)
class Server:
    """One base URL, and what was seen of it. Times by the engine's clock."""

    url: str  # without a slash at its end
    running: int = 0
    failures: int = 0  # in a row
    rests_until_s: float = -math.inf  # its circuit is open
    busy_until_s: float = -math.inf  # by its own word
    last_taken: int = 0
    left_out: set[str] = field(default_factory=set)  # parameters that it does not know
    counts_tokens: bool | None = None  # whether it has /tokenize; None: nobody asked yet

    @property
    def root(self) -> str:
        """Where what is no part of the OpenAI API lies."""
        return self.url.removesuffix("/v1")

    @property
    def suspect(self) -> bool:
        """Its circuit is open, or half open."""
        return self.failures >= FAILURES

    def ready_at_s(self) -> float:
        return max(self.rests_until_s, self.busy_until_s)

    def takes(self, now_s: float) -> bool:
        return now_s >= self.ready_at_s() and not (self.suspect and self.running)

    @contextmanager
    def serving(self) -> Iterator[None]:
        """It counts as busier while the block runs."""
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1

    def failed(self, failure: Failure, now_s: float) -> bool:
        """Remember a failure; says if the circuit opened just now."""
        if failure.blame in _INNOCENT:
            self.busy_until_s = max(self.busy_until_s, now_s + failure.retry_after_s)
            return False
        if now_s < self.rests_until_s:  # of many requests that meet the same, the first counts
            return False
        self.failures = max(self.failures + 1, FAILURES if failure.blame in _AT_ONCE else 0)
        if not self.suspect:
            return False
        again = min(self.failures - FAILURES, 10)
        self.rests_until_s = now_s + min(FIRST_REST_S * 2**again, LONGEST_REST_S)
        return True

    def succeeded(self) -> bool:
        """A token came: close the circuit; says if it was open."""
        was_open = self.suspect
        self.failures, self.rests_until_s = 0, -math.inf
        return was_open


class Servers:
    """All base URLs of an engine."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._servers = [Server(url.rstrip("/")) for url in urls]
        self._turns = itertools.count(1)

    def __iter__(self) -> Iterator[Server]:
        return iter(self._servers)

    def __len__(self) -> int:
        return len(self._servers)

    def pick(self, now_s: float, tried: Collection[Server] = ()) -> Server | None:
        """The one to ask: not yet tried if possible, then the least busy, then whoever waited longest."""
        ready = [server for server in self._servers if server.takes(now_s)]
        if not ready:
            return None
        chosen = min(ready, key=lambda server: (server in tried, server.running, server.last_taken))
        chosen.last_taken = next(self._turns)
        return chosen

    def ready_in_s(self, now_s: float) -> float:
        """How long until one of them may take a request."""
        return max(0.0, min(server.ready_at_s() for server in self._servers) - now_s)
