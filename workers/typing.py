"""Show an answer while it is written: drafts for the sender, paced so that the platform's calls last for all."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from app.drafts import Drafts
from app.errors import StoreUnavailable
from app.mailbox import Lease
from app.message import Address
from app.queue import Wake

log = structlog.get_logger()
SHARE_FOR_UPDATES = 0.6  # of the platform's calls; the rest is for creating and finishing cards


class Typist:
    """Writes the drafts of one answer."""

    def __init__(self, pace: "Typing", lease: Lease, address: Address) -> None:
        self._pace = pace
        self._lease = lease
        self._address = address
        self._shown_at = float("-inf")

    def due(self) -> bool:
        """Whether it is time to show the text again."""
        return self._pace.enabled and time.monotonic() - self._shown_at >= self._pace.interval_s()

    def show(self, text: str) -> None:
        """Show the full text so far. Raises LeaseLost."""
        self._shown_at = time.monotonic()
        self._pace.show(self._lease, self._address, text)


class Typing:
    """All answers that this process types at the same time."""

    def __init__(
        self, drafts: Drafts, wake: Wake, *, enabled: bool, least_interval_s: float, calls_per_s: float
    ) -> None:
        self.enabled = enabled
        self._drafts = drafts
        self._wake = wake
        self._least_interval_s = least_interval_s
        self._calls_per_s = calls_per_s * SHARE_FOR_UPDATES
        self._open = 0
        self._lock = threading.Lock()

    @contextmanager
    def typist(self, lease: Lease, address: Address) -> Iterator[Typist]:
        """A typist for one answer, counted while the block runs."""
        with self._lock:
            self._open += 1
        try:
            yield Typist(self, lease, address)
        finally:
            with self._lock:
                self._open -= 1

    def interval_s(self) -> float:
        """Time between two drafts of one answer: longer the more answers type."""
        return max(self._least_interval_s, self._open / self._calls_per_s)

    def show(self, lease: Lease, address: Address, text: str) -> None:
        """Keep the newest text, and wake the sender. A record that does not answer costs this draft alone."""
        try:
            self._drafts.write(lease, address, text)
        except StoreUnavailable:
            log.warning("a draft is left out: the record does not answer", id=lease.id)
            return
        self._wake("send", lease.conversation)
