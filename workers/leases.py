"""Renews every lease that this process holds, in one round trip, on a connection of its own.

The thread ends the work of a lease that was lost, was told to stop, or has taken too long; a lease that has taken too
long is not renewed any more.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import structlog

from app.errors import LeaseLost, StoreUnavailable
from app.keys import Box
from app.mailbox import DraftLease, Lease, Mailbox

Ending = Literal["lost", "stopped", "hung", "drained"]
LONGEST_INTERVAL_S = 1.0
SWITCH_S = 0.0005
log = structlog.get_logger()


def keep_pace() -> None:
    """Have threads that compute in Python hand its lock on ten times sooner than by default.

    Each wait for the lock takes that long for every such thread, and one renewal waits for it several times: with
    sixteen of them a lease of two seconds ended before it was renewed (benchmarks/renewals.py). The whole process.
    """
    sys.setswitchinterval(SWITCH_S)


def interval_of(lease_s: float) -> float:
    """How often leases of this length are renewed."""
    return min(lease_s / 3, LONGEST_INTERVAL_S)


@dataclass(eq=False)
class Holding:
    """One lease in hand: how long its work may take, and how to end it."""

    lease: Lease | DraftLease
    limit_s: float
    silence_limit_s: float = float("inf")
    surely_until: float = float("-inf")  # nobody else has it before this time, by time.monotonic()
    started_at: float = field(default_factory=time.monotonic)
    ending: Ending | None = None
    _on_end: list[Callable[[], None]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._heard_at = self.started_at

    def touch(self) -> None:
        """The work gives a sign of life, such as a token."""
        self._heard_at = time.monotonic()

    @contextmanager
    def listening(self, silence_limit_s: float) -> Iterator[None]:
        """While the block runs, the work gives a sign of life at least so often, or it hangs."""
        self.touch()
        self.silence_limit_s = silence_limit_s
        try:
            yield
        finally:
            self.silence_limit_s = float("inf")

    def wait(self) -> None:
        """The work has not begun: it waits for a place, and that counts as no time."""
        self.started_at = self._heard_at = time.monotonic()

    def allow(self, limit_s: float) -> None:
        """Give the work another limit, from its start."""
        self.limit_s = limit_s

    def left_s(self) -> float:
        return self.limit_s - (time.monotonic() - self.started_at)

    def overdue(self) -> bool:
        return self.left_s() < 0 or time.monotonic() - self._heard_at > self.silence_limit_s

    def sure(self, until: float) -> None:
        """The record said that the lease holds until then."""
        self.surely_until = max(self.surely_until, until)

    def end(self, ending: Ending) -> None:
        """End the work: cancel what it waits for. The first reason counts."""
        with self._lock:
            if self.ending is not None:
                return
            self.ending = ending
            callbacks = list(self._on_end)
        for callback in callbacks:
            callback()

    def on_end(self, callback: Callable[[], None]) -> None:
        """Call this when the work is to end; at once if it already is."""
        with self._lock:
            if self.ending is None:
                self._on_end.append(callback)
                return
        callback()


class Leases:
    """All leases of this process. `on_hung` is called, once each, for work that does not end."""

    def __init__(
        self,
        boxes: Mapping[Box, Mailbox],
        *,
        lease_s: float,
        on_hung: Callable[[], None],
    ) -> None:
        self._boxes = boxes
        self._lease_s = lease_s
        self._interval_s = interval_of(lease_s)
        self._on_hung = on_hung
        self._held: set[Holding] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._renew_all, name="leases", daemon=True)
        self._thread.start()

    @contextmanager
    def holding(self, lease: Lease | DraftLease, *, limit_s: float) -> Iterator[Holding]:
        """Keep a lease alive while the block runs."""
        holding = Holding(lease, limit_s)
        with self._lock:
            self._held.add(holding)
        try:
            yield holding
        finally:
            with self._lock:
                self._held.discard(holding)

    def count(self) -> int:
        with self._lock:
            return len(self._held)

    def busy(self) -> int:
        """How many may still end by themselves: all but those that hang."""
        return sum(holding.ending != "hung" for holding in self._all())

    def end_all(self, ending: Ending) -> None:
        for holding in self._all():
            holding.end(ending)

    def give_back(self) -> list[tuple[str, str]]:
        """Release, uncounted, what did not end when it was told to; (queue, conversation) to wake.

        Not what hangs, which may be the message's own fault, and not a reply, whose call may be under way.
        """
        woken: list[tuple[str, str]] = []
        for holding in self._all():
            lease = holding.lease
            if lease.box == "outbox" or holding.ending in ("hung", "lost"):
                continue
            try:
                woken.append((self._boxes[lease.box].release(lease), lease.conversation))
            except (LeaseLost, StoreUnavailable) as exc:
                log.warning("a turn could not be handed back", id=lease.id, reason=type(exc).__name__)
        return [one for one in woken if one[0]]

    def close(self) -> None:
        self._closed.set()
        self._thread.join(5)

    def _all(self) -> list[Holding]:
        with self._lock:
            return list(self._held)

    def _renew_all(self) -> None:
        while not self._closed.wait(self._interval_s):
            try:
                self._renew_once()
            except StoreUnavailable:
                log.warning("leases could not be renewed; trying again")

    def _renew_once(self) -> None:
        held = self._all()
        for holding in held:
            if holding.ending is None and holding.overdue():
                log.error("a turn hangs and is given up", id=holding.lease.id, limit_s=holding.limit_s)
                holding.end("hung")
                self._on_hung()
        for box, mailbox in self._boxes.items():
            alive = [one for one in held if one.lease.box == box and one.ending not in ("hung", "lost")]
            if not alive:
                continue
            asked_at = time.monotonic()
            for holding, (kept, stop) in zip(alive, mailbox.renew([one.lease for one in alive]), strict=True):
                if not kept:
                    holding.end("lost")
                    continue
                holding.sure(asked_at + self._lease_s)
                if stop:
                    holding.end("stopped")
