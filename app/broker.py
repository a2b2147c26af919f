"""Connections to the broker on which nobody waits for long, whatever the broker does.

A RabbitMQ that is frozen, or that an alarm keeps from reading, answers nothing and closes nothing; its client library
would wait for ever for most answers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import kombu
from kombu.exceptions import KombuError

from app.errors import BrokerUnavailable

ANSWER_S = 5.0  # for each answer of a RabbitMQ
HEARTBEAT_S = 10.0  # on RabbitMQ: a connection that is silent for two of these is dead
_RETRY = {"interval_start": 0.1, "interval_step": 0.1, "interval_max": 2.0}


class Connection(kombu.Connection):
    """Every process's connection.

    It tries again soon at first, and every two seconds at the latest, where Celery's own would be half a minute late
    after a long outage, and a broker that stops answering while queues are declared does not hold a worker for ever.
    """

    def ensure_connection(self, *args: Any, **how: Any) -> Any:
        connected = super().ensure_connection(*args, **(_RETRY | how))
        bound(self, ANSWER_S)
        return connected


def is_rabbitmq(url: str) -> bool:
    """Whether this broker speaks AMQP."""
    return url.startswith("amqp")


def life_of(connection: kombu.Connection) -> str:
    """Another name after each start of a broker that forgets; empty for a RabbitMQ, whose queues last."""
    if connection.transport.driver_type == "amqp":
        return ""
    channel: Any = connection.default_channel
    return str(channel.client.info("server")["run_id"])


def errors_of(connection: kombu.Connection) -> tuple[type[BaseException], ...]:
    """All that this broker's client raises when the broker fails or refuses."""
    theirs = (*connection.connection_errors, *connection.channel_errors)
    return (KombuError, OSError, AttributeError, *theirs)  # py-amqp raises AttributeError on some lost connections


@contextmanager
def answering(connection: kombu.Connection, patience_s: float) -> Iterator[kombu.Connection]:
    """Connect, in two attempts; each answer within `patience_s`. Closed afterwards.

    Raises:
        BrokerUnavailable: from within too, when the broker stops answering.
    """
    try:
        connection.connect_timeout = patience_s
        connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
        bound(connection, patience_s)
        yield connection
    except errors_of(connection) as exc:
        drop(connection)
        raise BrokerUnavailable(type(exc).__name__) from exc
    finally:
        connection.release()  # with a goodbye, if it was not dropped


def bound(connection: kombu.Connection, patience_s: float) -> None:
    """Have each answer on an open AMQP connection come within this time; Redis clients have settings for that."""
    if connection.transport.driver_type == "amqp":
        connection.connection.sock.settimeout(patience_s)


def drop(connection: kombu.Connection) -> None:
    """Close; without asking RabbitMQ, which would not answer while it reads nothing."""
    try:
        if connection.transport.driver_type == "amqp":
            connection.collect()
        else:
            connection.release()
    except errors_of(connection):
        return  # it was closed already
