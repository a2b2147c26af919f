"""Which queues hold wake-ups, as the sweeper asks: whose queue is not empty may have to wait a little longer.

A broker that speaks Redis keeps nothing on a disk. When it was started anew, the queues that fill up again hide that
what was in them before is gone; so for some time after wake-ups were lost every queue counts as empty.
"""

import time
from typing import Final

from celery import Celery

from app import broker, keys
from app.errors import BrokerUnavailable, StoreUnavailable
from app.queue import Waker, lengths_of
from app.redis import Store

PATIENCE_S: Final = 2.0
KEPT_MS: Final = 365 * 86_400_000


class Backlog:
    """Call it for the names of the queues that are not empty; none while they may have lost wake-ups.

    Raises:
        BrokerUnavailable: there is nobody to give a wake-up to.
    """

    def __init__(self, celery: Celery, waker: Waker, store: Store, *, wary_s: float) -> None:
        self._celery = celery
        self._waker = waker
        self._store = store
        self._wary_s = wary_s
        self._lost_at = float("-inf")  # by the monotonic clock: when wake-ups may have been lost last
        self._known = ""  # the life of the broker that was seen last

    def __call__(self) -> list[str]:
        try:
            with broker.answering(self._celery.connection_for_write(), PATIENCE_S) as connection:
                life, lengths = broker.life_of(connection), lengths_of(connection)
            if life != self._known:
                self._lost_at = max(self._lost_at, time.monotonic() - self._age_s(life))
                self._known = life
        except BrokerUnavailable:
            self._lost_at = time.monotonic()
            raise
        except StoreUnavailable:  # of a cluster's nodes only one knows the broker's life
            self._lost_at = time.monotonic()
            return []
        if time.monotonic() - max(self._lost_at, self._waker.failed_at) < self._wary_s:
            return []
        return [name for name, length in lengths.items() if length]

    def _age_s(self, life: str) -> float:
        """For how long the broker has been known under this life, to whichever process sweeps."""
        if self._store.at(keys.BROKER, lambda server: server.get(keys.BROKER)) != life.encode():
            self._store.run("tell", [keys.BROKER], [life, KEPT_MS])
        left_ms = self._store.at(keys.BROKER, lambda server: server.pttl(keys.BROKER))
        return (KEPT_MS - int(left_ms)) / 1000
