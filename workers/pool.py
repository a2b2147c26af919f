"""One pool's process around its tasks: the desk it works at, the sweeper, and a clean end.

Celery calls in by signals. A process ends in one of three ways: it is told to (SIGTERM: running turns get their time
and are handed back, running deliveries are finished), its supervisor is gone (at once), or it is worn out (a hung turn,
a dead engine: status 75).
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import structlog
from celery import signals
from kombu.asynchronous.hub import Hub

from app import crashpoints
from app.backlog import Backlog
from app.broker import is_rabbitmq
from app.errors import BadSetting
from app.installation import check_record, limits_of, mailboxes
from app.log import setup_logging
from app.mailbox import BUSY_GRACE_S
from app.process import EVERYTHING_STOPS, REPLACE_ME, SERVERS_ALONE_S, end_with_parent, ready
from app.queue import Waker, create_celery
from app.redis import Store
from app.settings import Pool, Settings
from app.sweeper import Sweeper
from app.wording import Wording
from workers.consumer import QuorumConsumer, TidyConsumer
from workers.deadman import Deadman
from workers.leases import Leases, keep_pace
from workers.leaving import Leaving

HAND_BACK_S = 5.0  # of the drain, for handing back what did not finish
LEAST_GRACE_SHARE = 0.25  # ... but running turns have at least this part of a short drain
HEED_S = 1.0  # from when a turn is told to end to when it is handed back
EXIT_S = 0.3  # from when the last delivery must have ended to when the process is killed
ORPHAN_HAND_BACK_S = 1.0
ORPHAN_KILLED_S = 3.0  # by the warden
POLL_S = 0.05
SWEEP_PATIENCE_S = 2.0  # a sweep that failed is done again anyway
THREAD_IS_FREE_S = 0.01  # from the signal that a task has ended to when Celery has taken it off its books
log = structlog.get_logger()


def grace_s(drain_s: float) -> float:
    """How long running turns may go on at SIGTERM, of `drain_s` until the process is killed."""
    return max(drain_s - HAND_BACK_S, drain_s * LEAST_GRACE_SHARE)


class PoolProcess:
    """What every worker process has, whatever its pool does."""

    def __init__(
        self, pool: Pool, settings: Settings, open_desk: Callable[["PoolProcess"], None], *, finishes: bool = False
    ) -> None:
        """`open_desk` is called once before the first task, when store, leases and waker are there.

        `finishes`: what runs at SIGTERM is waited for to the end of the drain, since it may be done and not marked yet.
        """
        self.settings = settings
        self.draining = threading.Event()
        self.leaving = Leaving()
        self._finishes = finishes
        self._told = False  # to leave, by SIGTERM
        self._status = 0  # with which the process leaves
        self._hub: Hub | None = None  # Celery's loop; kombu's own get_event_loop() forgets it when a connection breaks
        self.celery = create_celery(f"switchyard.{pool}", settings.broker_url.get_secret_value())
        on_rabbitmq = is_rabbitmq(settings.broker_url.get_secret_value())
        self.celery.conf.worker_consumer = QuorumConsumer if on_rabbitmq else TidyConsumer
        self.node = ""  # what Celery calls this process
        self._pool = pool
        self._open_desk = open_desk
        self._connect_signals()

    def open(self) -> None:
        """Connect to the record, start renewing and sweeping, and open the desk."""
        settings = self.settings
        keep_pace()
        url, limits = settings.redis_url.get_secret_value(), limits_of(settings)
        if settings.test_installation:
            crashpoints.obey_orders(settings.data_dir)
        self.wording = Wording(settings.locale)
        self.store = Store(url, replicas=settings.replicas_ack)
        check_record(self.store)
        self.boxes = mailboxes(self.store, limits)
        own_connection = Store(url, deadline_s=limits.lease_s / 2, timeout_s=max(0.5, limits.lease_s / 2))
        self.leases = Leases(
            mailboxes(own_connection, limits),
            lease_s=limits.lease_s,
            on_hung=lambda: self.replace("a turn hangs"),
            deadman=Deadman(limits.lease_s),
        )
        self.waker = Waker(self.celery)
        self._open_desk(self)
        sweeping = Store(url, deadline_s=SWEEP_PATIENCE_S, timeout_s=SWEEP_PATIENCE_S)
        Sweeper(
            sweeping,
            list(mailboxes(sweeping, limits).values()),
            wake=self.waker.wake,
            filled=Backlog(self.celery, self.waker, self.store, wary_s=BUSY_GRACE_S),
            interval_s=settings.sweep_interval_s,
        ).start()

    def replace(self, reason: str) -> None:
        """This process is worn out: take no new work, finish what runs, leave with status 75."""
        if not self.draining.is_set():
            log.error("process will be replaced", reason=reason)
            self._status = REPLACE_ME
            self.draining.set()
            os.kill(os.getpid(), signal.SIGTERM)  # Celery stops fetching: no wake-up shall end here

    def _connect_signals(self) -> None:
        signals.setup_logging.connect(self._on_setup_logging, weak=False)
        signals.worker_init.connect(self._on_init, weak=False)
        signals.worker_ready.connect(self._on_ready, weak=False)
        signals.worker_shutting_down.connect(self._on_shutting_down, weak=False)
        signals.worker_shutdown.connect(self._on_shutdown, weak=False)
        signals.task_postrun.connect(self._fetch_soon, weak=False)

    def _on_setup_logging(self, **_: Any) -> None:
        setup_logging(self._pool, level=self.settings.log_level, style=self.settings.log_format)

    def _on_init(self, sender: Any, **_: Any) -> None:
        self._on_setup_logging()  # Celery asks for it later; until then a traceback would show every local, as secrets
        self.node = sender.hostname
        end_with_parent(self._on_orphaned)
        signal.signal(EVERYTHING_STOPS, self._on_everything_stops)
        try:
            self.open()
        except BadSetting as exc:
            log.error("this worker cannot start", reason=str(exc))
            os._exit(1)
        except Exception:  # Celery would log it and start all the same
            log.exception("this worker cannot start")
            os._exit(1)

    def _on_ready(self, sender: Any, **_: Any) -> None:
        self._hub = sender.hub
        ready()

    def _fetch_soon(self, **_: Any) -> None:
        """A thread is free: have the worker fetch now.

        A worker that fetches nothing ahead and whose threads were all busy would notice only when its loop turns the
        next time, up to a second later.
        """
        if self._hub is not None:
            self._hub.call_soon(_turn_again, self._hub)

    def _on_everything_stops(self, *_: Any) -> None:
        self.leaving.within(self.settings.drain_s - SERVERS_ALONE_S)

    def _on_shutting_down(self, **_: Any) -> None:
        if self._told:
            return  # as when an operator and the supervisor say it both
        self._told = True
        self.draining.set()
        self.leaving.within(self.settings.drain_s)
        grace = grace_s(self.settings.drain_s)
        threading.Thread(target=self._hand_back_in_time, args=(grace,), daemon=True).start()

    def _on_shutdown(self, sender: Any, **_: Any) -> None:
        """Celery has ended by itself. What the last turns woke goes out first.

        An interpreter that takes itself apart may abort under a thread that still computes.
        """
        self.waker.close()
        os._exit(self._status or sender.exitcode or 0)

    def _on_orphaned(self) -> None:
        self.draining.set()
        self.leaving.within(ORPHAN_KILLED_S)
        os.kill(os.getpid(), signal.SIGTERM)
        self._hand_back(ORPHAN_HAND_BACK_S)
        self._leave(1)

    def _hand_back_in_time(self, within_s: float) -> None:
        """Celery ends the process when nothing runs; but it waits for ever for a skill that does not listen.

        Also for one that began when nobody looked any more: its lease took its time.
        """
        end = time.monotonic() + within_s
        while True:
            self._hand_back(max(HEED_S, end - time.monotonic()))
            if self.leases.count():
                self._leave(self._status)

    def _hand_back(self, within_s: float) -> None:
        """Let running work finish for so long, then give the rest back."""
        self._until_idle(max(0.0, self.leaving.left_s() - EXIT_S) if self._finishes else within_s)
        self.leases.end_all("drained")
        if not self._finishes:
            self._until_idle(HEED_S)
        for queue, conversation in self.leases.give_back():
            self.waker.wake(queue, conversation)

    def _leave(self, status: int) -> None:
        self.waker.close(EXIT_S)
        os._exit(status)

    def _until_idle(self, limit_s: float) -> None:
        """Wait for what may still end by itself; a turn that began right before the flag has its lease by then."""
        end = time.monotonic() + limit_s
        time.sleep(POLL_S)
        while self.leases.busy() and time.monotonic() < end:
            time.sleep(POLL_S)


def _turn_again(hub: Hub) -> None:
    """In the loop's own thread; a turn of the loop is all that is wanted."""
    hub.call_later(THREAD_IS_FREE_S, bool)
