"""Celery's consumer as it should be on RabbitMQ's quorum queues."""

from typing import Any

from celery.worker.consumer.consumer import Consumer

AHEAD = 4  # with one, each wake-up waits for the acknowledgement before it to be on the broker's disk: a sixth the pace
_DELAYED = "celery.worker.consumer.delayed_delivery:DelayedDelivery"


class QuorumConsumer(Consumer):
    """Holds at most four wake-ups beyond those that its threads work on, and declares no queue but its own.

    Celery's holds as many again as it has threads, which others could have taken; and for delayed tasks, which there
    are none of here, it keeps 28 more quorum queues on the broker.
    """

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc, valid-type]
        default_steps = tuple(step for step in Consumer.Blueprint.default_steps if step != _DELAYED)

    def __init__(self, *args: Any, **how: Any) -> None:
        super().__init__(*args, **how | {"initial_prefetch_count": AHEAD})
