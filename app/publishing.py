"""One thread's connection for wake-ups: many are published, and their arrival is waited for once."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import kombu

from app import broker
from app.errors import BrokerUnavailable

MOST_TOGETHER = 100
_AT_ONCE_S = 0.001  # a read that waits for nothing; with no time at all py-amqp spins on a frame that is half there


@dataclass(frozen=True, slots=True)
class WakeUp:
    """A message of Celery's for one queue, ready to go."""

    queue: str
    body: Any
    headers: dict[str, Any]
    properties: dict[str, Any]


class Publisher:
    """For the Redis protocol, in which the answer to a command says that the message is there."""

    beat_s: float | None = None  # how often `beat` wants to be called while there is nothing to publish

    def __init__(self, connection: kombu.Connection) -> None:
        """`connection` is opened when it is needed, again and again."""
        self._connection = connection
        self._errors = broker.errors_of(connection)
        self._producer: Any = None

    def publish(self, wake_ups: Sequence[WakeUp]) -> None:
        """Publish at most 100.

        A connection that turns out to be dead is replaced once: it may have been so for long, while nothing was said.

        Raises:
            BrokerUnavailable: some of them may have been published.
        """
        was_open = self._producer is not None
        try:
            self._publish(wake_ups)
        except self._errors as exc:
            self._drop()
            if not was_open or isinstance(exc, TimeoutError):
                raise BrokerUnavailable(type(exc).__name__) from exc
            self.publish(wake_ups)

    def beat(self) -> None:
        """Keep an idle connection alive, and let go of a dead one."""

    def close(self) -> None:
        """Say goodbye."""
        self._drop()

    def _publish(self, wake_ups: Sequence[WakeUp]) -> None:
        producer = self._open()
        with producer.batch(max_size=MOST_TOGETHER):  # one round trip
            for wake_up in wake_ups:
                self._send(producer, wake_up)

    def _open(self) -> Any:
        if self._producer is None:
            self._producer = self._connection.Producer(auto_declare=False)
        return self._producer

    def _send(self, producer: Any, wake_up: WakeUp) -> None:
        producer.publish(
            wake_up.body,
            exchange="",  # the default exchange: no binding to look up
            routing_key=wake_up.queue,
            serializer="json",
            headers=wake_up.headers,
            delivery_mode=1,
            retry=False,
            timeout=broker.ANSWER_S,
            **wake_up.properties,
        )

    def _drop(self) -> None:
        self._producer = None
        broker.drop(self._connection)


class ConfirmedPublisher(Publisher):
    """For RabbitMQ, which confirms what it has; in an alarm it says so and reads nothing from those who publish."""

    beat_s = broker.HEARTBEAT_S / 4

    def __init__(self, connection: kombu.Connection) -> None:
        super().__init__(connection)
        self._amqp: Any = None
        self._sent = 0  # messages on this channel: the number of the last one in its confirmation
        self._unconfirmed: set[int] = set()
        self._refused = self._blocked = False

    def beat(self) -> None:
        if self._producer is None:
            return
        try:
            self._listen()
            self._amqp.heartbeat_tick()
        except self._errors:
            self._drop()

    def close(self) -> None:
        if self._blocked:
            self._drop()
        else:
            self._connection.release()

    def _publish(self, wake_ups: Sequence[WakeUp]) -> None:
        producer = self._open()
        if self._blocked:
            self._listen()
        self._check()
        for wake_up in wake_ups:
            self._sent += 1
            self._unconfirmed.add(self._sent)
            self._send(producer, wake_up)
        end = time.monotonic() + broker.ANSWER_S
        while self._unconfirmed:
            self._check()
            self._amqp.drain_events(timeout=max(_AT_ONCE_S, end - time.monotonic()))
        self._check()

    def _check(self) -> None:
        """Whether there is reason not to go on. The connection is whole, so it is kept."""
        refused, self._refused = self._refused, False
        if self._blocked:
            raise BrokerUnavailable("an alarm: it takes nothing")
        if refused:
            raise BrokerUnavailable("it refused a message")

    def _open(self) -> Any:
        if self._producer is None:
            self._sent, self._refused, self._blocked = 0, False, False
            self._unconfirmed.clear()
            self._connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
            broker.bound(self._connection, broker.ANSWER_S)
            channel: Any = self._connection.channel()
            self._amqp = channel.connection
            self._amqp.on_blocked, self._amqp.on_unblocked = self._on_blocked, self._on_unblocked
            channel.confirm_select()
            channel.events["basic_ack"].add(self._on_confirmed)
            channel.events["basic_nack"].add(self._on_refused)
            self._producer = kombu.Producer(channel, auto_declare=False)
        return self._producer

    def _listen(self) -> None:
        """Take in all that the broker has said."""
        try:
            while True:
                self._amqp.drain_events(timeout=_AT_ONCE_S)
        except TimeoutError:
            return

    def _on_blocked(self, _reason: str) -> None:
        self._blocked = True

    def _on_unblocked(self) -> None:
        self._blocked = False

    def _on_confirmed(self, number: int, multiple: bool) -> None:
        self._unconfirmed -= {one for one in self._unconfirmed if one <= number} if multiple else {number}

    def _on_refused(self, number: int, multiple: bool) -> None:
        self._refused = True
        self._on_confirmed(number, multiple)


def publisher(connection: kombu.Connection) -> Publisher:
    """The publisher that suits the broker of this connection."""
    return (ConfirmedPublisher if connection.transport.driver_type == "amqp" else Publisher)(connection)
