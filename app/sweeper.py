"""Wakes what is due and did not move. One process at a time sweeps; any other takes over when it stops."""

import os
import threading
import uuid
from collections.abc import Callable, Sequence

import structlog

from app import keys
from app.acceptance import GRACE_S
from app.census import take_overdue
from app.errors import BrokerUnavailable, StoreUnavailable
from app.mailbox import BUSY_GRACE_S, SWEEP_AT_MOST, Mailbox
from app.queue import ROUTES, Wake
from app.redis import Store

TAKE_OVER_AFTER_S = 1.0  # behind the interval: a sweeper that is silent for so long is replaced
PASSED_ON_AFTER = 3  # sweeps that found no broker: perhaps it is this process alone that cannot reach it
log = structlog.get_logger()


class Sweeper:
    """One per worker process.

    `filled()` names the Celery queues that are not empty; none if that is not known. It raises BrokerUnavailable while
    waking is in vain: what was due stays due, and is woken as soon as there is a broker.
    """

    def __init__(
        self,
        store: Store,
        boxes: Sequence[Mailbox],
        *,
        wake: Wake,
        filled: Callable[[], list[str]],
        interval_s: float,
    ) -> None:
        self._store = store
        self._boxes = boxes
        self._wake = wake
        self._filled = filled
        self._interval_s = interval_s
        self._me = f"{os.getpid()}:{uuid.uuid4().hex}"
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._sweep_all, name="sweeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closed.set()

    def sweep(self) -> int:
        """Wake what is due, at most 500 conversations, oldest first; how many were woken.

        Raises:
            BrokerUnavailable: nothing was touched.
            StoreUnavailable: some may have been woken.
        """
        due = sorted(
            (since, box.box, shard, conversation)
            for box in self._boxes
            for since, shard, conversation in take_overdue(self._store, box.box, SWEEP_AT_MOST)
        )[:SWEEP_AT_MOST]
        if not due:
            return 0
        filled = self._filled()
        look_again_s = GRACE_S if len(due) < SWEEP_AT_MOST else BUSY_GRACE_S  # a long backlog fills no sweep twice
        woken = 0
        for box in self._boxes:
            queues = [name for name, route in ROUTES.items() if route.queue in filled]
            for shard in range(keys.SHARDS):
                names = [name for _, kind, number, name in due if (kind, number) == (box.box, shard)]
                if not names:
                    continue
                for queue, conversation in box.sweep(shard, names, filled=queues, look_again_s=look_again_s):
                    self._wake(queue, conversation)
                    woken += 1
        return woken

    def _sweep_all(self) -> None:
        in_vain = 0  # sweeps in a row that found no broker
        while not self._closed.wait(self._interval_s):
            try:
                if self._mine():
                    self.sweep()
                in_vain = 0
            except StoreUnavailable:
                log.warning("sweep postponed: the record does not answer")
            except BrokerUnavailable as exc:
                in_vain += 1
                if in_vain % PASSED_ON_AFTER == 0:
                    log.warning("sweep left to another: the broker does not answer here", reason=str(exc))
                    self._closed.wait(self._interval_s + 2 * TAKE_OVER_AFTER_S)

    def _mine(self) -> bool:
        """Whether this process sweeps.

        While nobody can tell, because the node of a cluster that holds this one key is silent, all sweep what the
        others hold: each conversation is woken once all the same.
        """
        keep_ms = round((self._interval_s + TAKE_OVER_AFTER_S) * 1000)
        try:
            return bool(self._store.pipelined("sweeper", [([keys.SWEEPER], [self._me, keep_ms])])[0])
        except StoreUnavailable:
            return True
