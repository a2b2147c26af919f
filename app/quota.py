"""Card calls of a month, counted for all processes together. When they are used up, answers go as messages."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

import structlog

from app import keys
from app.errors import StoreUnavailable
from app.redis import Store

KEPT_S = 40 * 86_400
LOOK_AGAIN_S = 5.0
CALLS_OF_A_CARD = 2  # at the least: it is created and finished
log = structlog.get_logger()


class MonthlyCalls:
    """The counter of the current month (UTC) in the record. `limit` 0: unlimited, and nothing is counted."""

    def __init__(self, store: Store, limit: int, *, wall: Callable[[], float] = time.time) -> None:
        self._store = store
        self._limit = limit
        self._wall = wall
        self._lock = threading.Lock()
        self._known = 0
        self._read_at = float("-inf")
        self._used_up_month = ""

    def count(self) -> None:
        """One more call, told before it is made. A record that does not answer costs its count, and never the call."""
        if not self._limit:
            return
        try:
            known = int(self._store.run_once("count", [self._name()], [KEPT_S]))
        except StoreUnavailable:
            log.warning("a card call was not counted")
            return
        with self._lock:
            self._known = known

    def left(self) -> bool:
        """Whether a card can be opened and ended this month; read again every few seconds.

        While the record does not answer, what was known last counts: a reply must not wait for a number.
        """
        if self._used_up_month == self._month():
            return False
        if not self._limit:
            return True
        with self._lock:
            known, old = self._known, time.monotonic() - self._read_at > LOOK_AGAIN_S
            if old:
                self._read_at = time.monotonic()
        if old:  # one at a time, and outside the lock: a record that is slow must not stop the others
            try:
                known = self.used()
            except StoreUnavailable:
                log.warning("the month's card calls are not known for now")
            with self._lock:
                self._known, self._read_at = known, time.monotonic()
        return known + CALLS_OF_A_CARD <= self._limit

    def used_up(self) -> None:
        """The platform itself said that the month's calls are used up: this process opens no card until the next."""
        month = self._month()
        with self._lock:
            told, self._used_up_month = self._used_up_month == month, month
        if not told:
            log.error("the platform's calls of this month are used up: no more cards until the next", month=month)

    def used(self) -> int:
        """Calls of this month. Not repeated; raises StoreUnavailable."""
        name = self._name()
        return int(self._store.at_once(name, lambda server: server.get(name)) or 0)

    def _name(self) -> str:
        return keys.calls(self._month())

    def _month(self) -> str:
        return datetime.fromtimestamp(self._wall(), UTC).strftime("%Y-%m")
