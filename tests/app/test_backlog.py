"""Which queues count as filled: none for a while after wake-ups were lost, or the loser would wait behind others."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from app import keys
from app.backlog import KEPT_MS, Backlog
from app.errors import BrokerUnavailable
from app.queue import Waker, create_celery
from app.redis import Store
from tests.app.supervised import eventually
from tests.valkey import free_port, valkey

LONG_MS, WARY_S = 3_600_000, 600.0


@pytest.fixture
def celery(tmp_path: Path) -> Iterator[Celery]:
    """On a broker with one wake-up for a text worker."""
    with valkey(tmp_path / "broker") as url, redis.Redis.from_url(url) as broker:
        celery = create_celery("test", url)
        waker = Waker(celery)
        waker.wake("text", "somebody")
        eventually(lambda: broker.llen("text"))
        waker.close()
        yield celery


def life(celery: Celery) -> str:
    with celery.connection_for_write() as connection:
        channel: Any = connection.default_channel
        return str(channel.client.info("server")["run_id"])


def a_backlog(celery: Celery, store: Store) -> Backlog:
    return Backlog(celery, Waker(celery), store, wary_s=WARY_S)


def test_a_broker_that_has_been_there_for_long_is_believed(celery: Celery, store: Store) -> None:
    store.client.set(keys.BROKER, life(celery), px=KEPT_MS - LONG_MS)

    assert a_backlog(celery, store)() == ["text"]


def test_a_broker_that_was_started_anew_is_not_believed_for_a_while(celery: Celery, store: Store) -> None:
    """Nobody need have noticed: its clients were connected to it again in the same moment."""
    store.client.set(keys.BROKER, "the life before", px=KEPT_MS - LONG_MS)
    backlog = a_backlog(celery, store)

    assert [backlog(), backlog()] == [[], []]
    assert a_backlog(celery, store)() == []  # whoever sweeps next knows it too


def test_a_broker_that_does_not_answer_is_not_believed_when_it_does_again(celery: Celery, store: Store) -> None:
    store.client.set(keys.BROKER, life(celery), px=KEPT_MS - LONG_MS)
    backlog = a_backlog(create_celery("test", f"redis://127.0.0.1:{free_port()}/0"), store)

    with pytest.raises(BrokerUnavailable):
        backlog()
    backlog._celery = celery
    assert backlog() == []
