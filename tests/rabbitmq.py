"""RabbitMQ for tests: a private node of prove/rabbitmq.py, or one line that says what the machine lacks."""

from prove.rabbitmq import missing
from tests.machine import lacking


def needs_rabbitmq() -> None:
    """Skip the test if there is no RabbitMQ; in CI, fail it."""
    if missing():
        lacking(*missing().split(": ", 1))
