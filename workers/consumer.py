"""Celery's consumer as it should be here: it leaves nothing behind, and on RabbitMQ takes little ahead."""

import contextlib
import time
from typing import Any

from celery.worker.consumer.consumer import Consumer
from kombu import Connection
from kombu.asynchronous.hub import Hub

from app.broker import errors_of

AHEAD = 4  # with one, each wake-up waits for the acknowledgement before it to be on the broker's disk: a sixth the pace
CLOSING_S = 1.0  # three channels, of which each is tried once; one that hangs is let be
_DELAYED = "celery.worker.consumer.delayed_delivery:DelayedDelivery"


class TidyConsumer(Consumer):
    """Lets go of a connection that broke.

    With kombu's Redis transport each time that the broker was away would leave an open socket, and one more callback
    that is called at each turn of Celery's loop: it stops closing at the first channel that cannot say goodbye.
    """

    hub: Hub
    connection: Connection

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """What belongs in the loop is put there again with the next connection."""
        self.hub.on_tick.clear()
        end = time.monotonic() + CLOSING_S
        while time.monotonic() < end:
            with contextlib.suppress(*errors_of(self.connection)):
                self.connection.collect()
                break
        super().on_connection_error_after_connected(exc)


class QuorumConsumer(TidyConsumer):
    """Holds at most four wake-ups beyond those that its threads work on, and declares no queue but its own.

    Celery's holds as many again as it has threads, which others could have taken; and for delayed tasks, which there
    are none of here, it keeps 28 more quorum queues on the broker.
    """

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc, valid-type]
        default_steps = tuple(step for step in Consumer.Blueprint.default_steps if step != _DELAYED)

    def __init__(self, *args: Any, **how: Any) -> None:
        super().__init__(*args, **how | {"initial_prefetch_count": AHEAD})
