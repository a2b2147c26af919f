"""Real servers for all tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.acceptance import Limits
from app.keys import Box
from app.mailbox import Mailbox
from app.redis import Store
from prove.rabbitmq import RabbitMQ, missing, rabbitmq
from tests.machine import lacking
from tests.valkey import valkey


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One server for all tests of a session; each test empties it before it begins."""
    folder: Path = tmp_path_factory.mktemp("valkey")
    with valkey(folder) as url:
        yield url


@pytest.fixture
def store(valkey_url: str) -> Iterator[Store]:
    """An empty record."""
    store = Store(valkey_url, deadline_s=5.0)
    store.client.flushall()
    yield store
    store.close()


@pytest.fixture(scope="session")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    """One RabbitMQ for all tests of a session that need it; a test that kills it starts it again."""
    if missing():
        lacking(*missing().split(": ", 1))
    with rabbitmq(tmp_path_factory.mktemp("rabbitmq")) as node:
        yield node


class Boxes:
    """The three mailboxes on one record, with the same limits."""

    def __init__(self, store: Store, limits: Limits) -> None:
        boxes: dict[Box, Mailbox] = {box: Mailbox(store, box, limits) for box in ("inbox", "outbox", "control")}
        self.inbox, self.outbox, self.control = boxes["inbox"], boxes["outbox"], boxes["control"]


@pytest.fixture
def boxes(store: Store) -> Boxes:
    return Boxes(store, Limits(lease_s=5.0))


@pytest.fixture
def inbox(boxes: Boxes) -> Mailbox:
    return boxes.inbox


@pytest.fixture
def outbox(boxes: Boxes) -> Mailbox:
    return boxes.outbox
