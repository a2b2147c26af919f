"""The broker of a run, whichever it is: what waits in its queues can be thrown away, its clients can be cut off."""

from contextlib import closing

import redis
from kombu import Connection, Queue
from kombu.exceptions import KombuError

from celeryconfig import QUEUES

PATIENCE_S = 5.0


def drop_wake_ups(url: str) -> None:
    """Throw away every wake-up that waits. A broker that is down has none."""
    try:
        with Connection(url, connect_timeout=PATIENCE_S) as connection:
            channel = connection.default_channel
            for name in QUEUES:
                Queue(name)(channel).purge()
    except (KombuError, OSError, redis.RedisError):
        return


def cut_clients(url: str) -> None:
    """Close every client's connection to a server that speaks Redis, in the middle of whatever it does."""
    with closing(redis.Redis.from_url(url, socket_timeout=PATIENCE_S)) as server:
        server.client_kill_filter(_type="normal", skipme=True)
