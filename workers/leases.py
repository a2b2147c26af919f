"""Renews every lease that this process holds, in one round trip, on a connection of its own.

The thread ends the work of a lease that was lost, was told to stop, or has taken too long; a lease that has taken too
long is not renewed any more.
"""

import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import structlog

from app.errors import LeaseLost, StoreUnavailable
from app.keys import Box
from app.mailbox import DraftLease, Lease, Mailbox
from workers.deadman import Deadman

Ending = Literal["lost", "stopped", "hung", "drained"]
LONGEST_INTERVAL_S = 1.0
FRAMES_SHOWN = 20
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
    """One lease in hand: how long its work may take, and how to end it. Made by the thread that does the work."""

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
        self._thread = threading.get_ident()

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

    def waits_for_engine(self) -> bool:
        """Whether it is the engine that is slow."""
        return self.silence_limit_s < float("inf")

    def where(self) -> str:
        """The lines of code at which the work is, as a traceback shows them."""
        frame = sys._current_frames().get(self._thread)
        return "".join(traceback.format_stack(frame, FRAMES_SHOWN)) if frame else ""

    def sure(self, until: float) -> None:
        """The record said that the lease holds until then."""
        self.surely_until = max(self.surely_until, until)

    def end(self, ending: Ending) -> None:
        """End the work: cancel what it waits for. The first reason counts, but one that does not heed a stop hangs."""
        with self._lock:
            if self.ending is not None and (self.ending, ending) != ("stopped", "hung"):
                return
            self.ending = ending
            callbacks, self._on_end = self._on_end, []
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
        deadman: Deadman | None = None,
    ) -> None:
        self._boxes = boxes
        self._lease_s = lease_s
        self._interval_s = interval_of(lease_s)
        self._on_hung = on_hung
        self._deadman = deadman
        self._held: set[Holding] = set()
        self._ending: Ending | None = None  # of all that is held from now on
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
            if self._deadman:
                self._deadman.start()
            ending = self._ending
        if ending is not None:
            holding.end(ending)
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
        """End the work of all that is held, and of what is held from now on."""
        with self._lock:
            self._ending = ending
        for holding in self._all():
            holding.end(ending)

    def give_back(self) -> list[tuple[str, str]]:
        """Release, uncounted, what did not end when it was told to; (queue, conversation) to wake.

        Not what hangs, which may be the message's own fault, and not a reply, whose call may be under way. When the
        record does not answer the rest is left to expire: each would wait for it as long as the first.
        """
        woken: list[tuple[str, str]] = []
        for holding in self._all():
            lease = holding.lease
            if lease.box == "outbox" or holding.ending in ("hung", "lost"):
                continue
            try:
                woken.append((self._boxes[lease.box].release(lease), lease.conversation))
            except LeaseLost:
                log.info("a turn that was to be handed back is somebody else's", id=lease.id)
            except StoreUnavailable:
                log.warning("turns could not be handed back: the record does not answer", id=lease.id)
                break
        return [one for one in woken if one[0]]

    def close(self) -> None:
        self._closed.set()
        self._thread.join(5)

    def _all(self) -> list[Holding]:
        with self._lock:
            return list(self._held)

    def _renew_all(self) -> None:
        while not self._closed.wait(self._interval_s):
            self._put_off()
            try:
                self._renew_once()
            except StoreUnavailable:
                log.warning("leases could not be renewed; trying again")

    def _renew_once(self) -> None:
        held = self._all()
        hung = [one for one in held if one.ending in (None, "stopped") and one.overdue()]
        self._renew_all_but(hung, held)
        for holding in hung:  # after the others: the record may be slow
            self._give_up(holding)

    def _renew_all_but(self, hung: Sequence[Holding], held: Sequence[Holding]) -> None:
        for box, mailbox in self._boxes.items():
            alive = [one for one in held if one.lease.box == box and one.ending not in ("hung", "lost")]
            alive = [one for one in alive if one not in hung]
            if not alive:
                continue
            asked_at = time.monotonic()
            for holding, answer in zip(alive, mailbox.renew([one.lease for one in alive]), strict=True):
                if answer is None:
                    continue  # its node does not answer; trying again
                kept, stop = answer
                if not kept:
                    holding.end("lost")
                    continue
                holding.sure(asked_at + self._lease_s)
                if stop:
                    holding.end("stopped")

    def _put_off(self) -> None:
        """Python runs, and so does this thread."""
        with self._lock:
            if self._deadman:
                self._deadman.put_off() if self._held else self._deadman.stop()

    def _give_up(self, holding: Holding) -> None:
        """It hangs. That the engine is silent is a matter of all its turns; anything else is the message's own."""
        own, where = holding.lease.box == "inbox" and not holding.waits_for_engine(), holding.where()
        log.error("a turn hangs and is given up", id=holding.lease.id, limit_s=holding.limit_s, where=where)
        holding.end("hung")
        self._on_hung()
        if not own:
            return  # it expires, as if its process had died
        mailbox = self._boxes[holding.lease.box]
        try:
            mailbox.mark(holding.lease, where)
            mailbox.release(holding.lease, counts="hung")
        except (LeaseLost, StoreUnavailable) as exc:
            log.warning("a turn that hangs could not be counted", id=holding.lease.id, reason=type(exc).__name__)
