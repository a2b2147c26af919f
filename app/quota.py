"""Card calls of a month, counted for all processes together. When they are used up, answers go as messages."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

import structlog
from redis.exceptions import RedisError

from app import keys
from app.redis import Store

KEPT_S = 40 * 86_400
LOOK_AGAIN_S = 5.0
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

    def count(self) -> None:
        """One more call. The platform has taken it, so a record that does not answer only costs its count."""
        if not self._limit:
            return
        name = self._name()
        try:
            known = int(self._store.client.incr(name))
            self._store.client.expire(name, KEPT_S)
        except RedisError:
            log.warning("a card call was not counted")
            return
        with self._lock:
            self._known = known

    def left(self) -> bool:
        """Whether another card may be opened this month; read again every few seconds."""
        if not self._limit:
            return True
        with self._lock:
            if time.monotonic() - self._read_at > LOOK_AGAIN_S:
                self._known, self._read_at = self.used(), time.monotonic()
            return self._known < self._limit

    def used(self) -> int:
        """Calls of this month. Raises StoreUnavailable."""
        return int(self._store.repeat(lambda: self._store.client.get(self._name())) or 0)

    def _name(self) -> str:
        return keys.calls(datetime.fromtimestamp(self._wall(), UTC).strftime("%Y-%m"))
