"""Wake-ups: Celery messages that carry a conversation's id and nothing a person wrote.

Waking is a courtesy. What must go on is already due in the record, so a wake-up may be lost, doubled or late.
"""

import heapq
import queue
import threading
import time
import uuid
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
from celery import Celery
from kombu import Connection, Queue

from app import broker
from app.errors import BrokerUnavailable
from app.publishing import MOST_TOGETHER, WakeUp, publisher
from celeryconfig import QUEUES

log = structlog.get_logger()

_MOST_WAITING = 100_000
_LOG_EVERY = 1000
_PATIENCE_S = 2.0


@dataclass(frozen=True, slots=True)
class Route:
    """The Celery queue and the task that a wake-up goes to."""

    queue: str
    task: str


# What `wake` may be told to wake -> where that is. Stop requests have a box of their own and share a pool.
ROUTES = {
    "text": Route("text", "text.turn"),
    "image": Route("image", "image.turn"),
    "default": Route("default", "default.turn"),
    "control": Route("default", "default.control"),
    "send": Route("send", "send.deliver"),
}


class Wake(Protocol):
    """Tell a queue's workers that a conversation has something for them."""

    def __call__(self, queue: str, conversation: str, /) -> None: ...


class WakeLater(Protocol):
    """Tell them in so many seconds."""

    def __call__(self, queue: str, conversation: str, after_s: float, /) -> None: ...


def create_celery(name: str, broker_url: str) -> Celery:
    """The Celery app of one process, with the settings of celeryconfig.py."""
    celery = Celery(name)
    celery.config_from_object("celeryconfig")
    celery.conf.update(broker_url=broker_url)
    celery.amqp.Connection = broker.Connection
    if broker.is_rabbitmq(broker_url):
        _suit_rabbitmq(celery)
    return celery


def _suit_rabbitmq(celery: Celery) -> None:
    """Quorum queues, and a silent connection is noticed; the rest of it is in workers/consumer.py."""
    quorum = {"x-queue-type": "quorum"}
    celery.conf.update(
        broker_transport_options={"write_timeout": broker.ANSWER_S},
        broker_heartbeat=broker.HEARTBEAT_S,
        task_queues=[Queue(name, routing_key=name, durable=True, queue_arguments=quorum) for name in QUEUES],
        worker_detect_quorum_queues=True,
        worker_disable_prefetch=False,  # exists on the Redis protocol only
        worker_enable_prefetch_count_reduction=False,  # quorum queues know no change of it: it would stay reduced
    )


class Waker:
    """Publishes wake-ups from one thread of its own, so that no turn and no frame waits for the broker."""

    def __init__(self, celery: Celery) -> None:
        self._celery = celery
        self._pending: queue.Queue[tuple[float, str, str] | None] = queue.Queue(_MOST_WAITING)
        self._later: list[tuple[float, str, str]] = []  # a heap by time; the publishing thread's own
        self._closed = False
        self._failures = 0
        self.failed_at = float("-inf")  # by the monotonic clock: when a wake-up was lost last
        self._publisher = publisher(celery.connection_for_write())
        self._thread = threading.Thread(target=self._publish_all, name="waker", daemon=True)
        self._thread.start()

    def wake(self, queue_name: str, conversation: str, /) -> None:
        """Wake a queue; returns at once, never raises for a broker that is down or slow."""
        self.wake_later(queue_name, conversation, 0.0)

    def wake_later(self, queue_name: str, conversation: str, after_s: float, /) -> None:
        """Wake a queue in a while; the sweeper does it if this process is gone by then."""
        if queue_name not in ROUTES:
            log.warning("a queue that this version does not know is left to a newer one", queue=queue_name)
            return
        try:
            self._pending.put_nowait((time.monotonic() + after_s, queue_name, conversation))
        except queue.Full:
            self._failed("too many wake-ups wait for the broker")

    def close(self, timeout_s: float = 2.0) -> None:
        """Publish what is due, for at most so long."""
        self._pending.put(None)
        self._thread.join(timeout_s)

    def _publish_all(self) -> None:
        while due := self._all_due():
            try:
                self._publisher.publish([self._wake_up(*one) for one in due])
            except BrokerUnavailable as exc:
                self._failed(str(exc))
        self._publisher.close()

    def _all_due(self) -> list[tuple[str, str]]:
        """Wait until a wake-up is due; all that are due then, each once. Empty at the end."""
        while True:
            for _ in range(MOST_TOGETHER):
                if not self._hear(0.0):
                    break
            if (due := self._due_now()) or self._closed:
                return due
            if not self._hear(self._patience_s()):
                self._publisher.beat()

    def _hear(self, timeout_s: float | None) -> bool:
        """Take over one wish; False if none came within this time, or none will come any more."""
        try:
            wanted = self._pending.get(timeout=None if timeout_s is None else max(0.0, timeout_s))
        except queue.Empty:
            return False
        if wanted is None:
            self._closed = True
            return False
        heapq.heappush(self._later, wanted)
        return True

    def _patience_s(self) -> float | None:
        """Until the next wake-up is due, or the connection wants to be looked after; None: for ever."""
        waits = [self._later[0][0] - time.monotonic()] if self._later else []
        if self._publisher.beat_s is not None:
            waits.append(self._publisher.beat_s)
        return min(waits, default=None)

    def _due_now(self) -> list[tuple[str, str]]:
        due: dict[tuple[str, str], None] = {}
        while self._later and self._later[0][0] <= time.monotonic() and len(due) < MOST_TOGETHER:
            due[heapq.heappop(self._later)[1:]] = None
        return list(due)

    def _wake_up(self, queue_name: str, conversation: str) -> WakeUp:
        route = ROUTES[queue_name]
        message = self._celery.amqp.as_task_v2(
            str(uuid.uuid4()),
            route.task,
            args=(conversation,),
            argsrepr=repr((conversation,)),  # Celery's own way to it is slower than all the rest of the message
            kwargsrepr="{}",
            ignore_result=True,
        )
        return WakeUp(route.queue, message.body, message.headers, message.properties)

    def _failed(self, reason: str) -> None:
        if self._failures % _LOG_EVERY == 0:
            log.warning("wake-ups are not published; the sweeper will", reason=reason, failures=self._failures + 1)
        self._failures += 1
        self.failed_at = time.monotonic()


def queue_lengths(celery: Celery) -> dict[str, int] | None:
    """Wake-ups that wait in each queue; None when the broker does not answer, after some seconds at most."""
    try:
        with broker.answering(celery.connection_for_write(), _PATIENCE_S) as connection:
            return lengths_of(connection)
    except BrokerUnavailable:
        return None


def lengths_of(connection: Connection) -> dict[str, int]:
    """Wake-ups that wait in each queue, on an open connection."""
    channel = connection.default_channel
    return {name: _length(channel, name) for name in QUEUES}


def _length(channel: Any, name: str) -> int:
    try:
        return int(channel.queue_declare(queue=name, passive=True).message_count)
    except channel.connection.client.channel_errors:
        return 0  # nobody has declared it yet


def strange_queues(celery: Celery) -> list[str]:
    """Queues that are on a RabbitMQ with other properties than ours; no worker could take from them.

    Raises:
        BrokerUnavailable: it did not answer.
    """
    with broker.answering(celery.connection_for_write(), _PATIENCE_S) as connection:
        channel, refused = connection.default_channel, connection.channel_errors
        return [queue.name for queue in celery.conf.task_queues if _is_strange(queue(channel), refused)]


def _is_strange(queue: Any, refused: tuple[type[BaseException], ...]) -> bool:
    try:
        queue.queue_declare(passive=True)
    except refused:
        return False  # it is not there
    try:
        queue.queue_declare()  # changes nothing: it is there
    except refused:
        return True
    return False
