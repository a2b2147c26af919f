"""Wake-ups on a real broker: a conversation's id and no word of a person, and never a reason to wait."""

import base64
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from app.acceptance import Limits
from app.queue import ROUTES, Waker, create_celery, queue_lengths
from app.redis import AsyncStore
from app.routing import Dispatcher
from tests.app.supervised import eventually
from tests.samples import a_message
from tests.valkey import free_port, valkey

SECRET = "the-persons-own-words"


@pytest.fixture(scope="module")
def broker_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("broker")
    with valkey(folder) as url:
        yield url


@pytest.fixture
def broker(broker_url: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(broker_url) as client:
        client.flushall()
        yield client


@contextmanager
def a_waker(url: str) -> Iterator[Waker]:
    waker = Waker(create_celery("test", url))
    try:
        yield waker
    finally:
        waker.close(0.2)


def raw(broker: "redis.Redis", queue: str, count: int = 1) -> list[bytes]:
    """The first messages of a queue, when there are so many."""
    eventually(lambda: broker.llen(queue) >= count)
    waiting: Any = broker.lrange(queue, 0, -1)
    return list(reversed(waiting))


def arguments(message: bytes) -> Any:
    return json.loads(base64.b64decode(json.loads(message)["body"]))[:2]


@pytest.mark.parametrize("queue", ROUTES)
def test_a_wake_up_is_a_task_with_a_conversations_id(broker: "redis.Redis", broker_url: str, queue: str) -> None:
    with a_waker(broker_url) as waker:
        waker.wake(queue, "dingtalk:bot:cid1:ann")

        (message,) = raw(broker, ROUTES[queue].queue)

    assert arguments(message) == [["dingtalk:bot:cid1:ann"], {}]
    assert json.loads(message)["headers"]["task"] == ROUTES[queue].task
    names: Any = broker.keys()
    assert {name for name in names if not name.startswith(b"_kombu")} == {ROUTES[queue].queue.encode()}


async def test_no_word_of_a_person_reaches_the_broker(
    broker: "redis.Redis", broker_url: str, valkey_url: str, store: object
) -> None:
    """Flower, logs and whoever reads the broker never see one."""
    message, record = a_message(text=SECRET, sender="ann"), AsyncStore(valkey_url)
    with a_waker(broker_url) as waker:
        dispatcher = Dispatcher(record, Limits(), wake=waker.wake, say=lambda key: key)
        await dispatcher.dispatch(message)
        await record.close()

        (published,) = raw(broker, "text")

    everything = published + base64.b64decode(json.loads(published)["body"])
    assert message.conversation.encode() in everything
    for word in (SECRET, "Ann", "staff042", message.id):
        assert word.encode() not in everything


def test_every_wake_up_is_published(broker: "redis.Redis", broker_url: str) -> None:
    with a_waker(broker_url) as waker:
        for number in range(50):
            waker.wake("text", f"conversation {number}")

        messages = raw(broker, "text", 50)

    assert {arguments(one)[0][0] for one in messages} == {f"conversation {number}" for number in range(50)}


def test_a_wake_up_for_later_comes_later(broker: "redis.Redis", broker_url: str) -> None:
    """By the clock of this process; no worker holds a message for it."""
    with a_waker(broker_url) as waker:
        began = time.monotonic()
        waker.wake_later("send", "second", 0.4)
        waker.wake_later("send", "never", 60.0)
        waker.wake("send", "first")

        messages = raw(broker, "send", 2)

    assert time.monotonic() - began >= 0.4
    assert [arguments(one)[0][0] for one in messages] == ["first", "second"]


def test_a_close_publishes_what_is_due(broker: "redis.Redis", broker_url: str) -> None:
    waker = Waker(create_celery("test", broker_url))
    for number in range(20):
        waker.wake("text", str(number))

    waker.close(20.0)

    assert broker.llen("text") == 20


def test_a_dead_broker_neither_raises_nor_blocks() -> None:
    """What must go on is already due in the record."""
    with a_waker(f"redis://127.0.0.1:{free_port()}/0") as waker:
        began = time.monotonic()
        for number in range(1000):
            waker.wake("text", str(number))
        took_s = time.monotonic() - began

    assert took_s < 4.0  # a broker is waited for five seconds, by the thread that publishes


def test_a_silent_broker_neither_raises_nor_blocks() -> None:
    """It takes the connection and says nothing."""
    silent = socket.create_server(("127.0.0.1", 0))
    with silent, a_waker(f"redis://127.0.0.1:{silent.getsockname()[1]}/0") as waker:
        began = time.monotonic()
        for number in range(1000):
            waker.wake("text", str(number))
        took_s = time.monotonic() - began

    assert took_s < 4.0  # a broker is waited for five seconds, by the thread that publishes


def test_wake_ups_go_on_when_connections_were_cut(broker: "redis.Redis", broker_url: str) -> None:
    with a_waker(broker_url) as waker:
        waker.wake("text", "before")
        raw(broker, "text")
        broker.client_kill_filter(_type="normal", skipme=True)

        def woken_again() -> bool:
            waker.wake("text", "after")
            return int(broker.llen("text")) > 1

        eventually(woken_again)


def test_the_lengths_of_queues_are_known(broker: "redis.Redis", broker_url: str) -> None:
    with a_waker(broker_url) as waker:
        for number in range(3):
            waker.wake("text", f"conversation {number}")
        raw(broker, "text", 3)

    assert queue_lengths(create_celery("test", broker_url)) == {"text": 3, "image": 0, "default": 0, "send": 0}


def test_the_lengths_of_a_dead_broker_are_unknown() -> None:
    assert queue_lengths(create_celery("test", f"redis://127.0.0.1:{free_port()}/0")) is None


def test_a_message_is_a_hint_and_kept_by_nobody() -> None:
    """Early ack, no results, nothing prefetched, no queue that nobody asked for."""
    celery: Celery = create_celery("test", "redis://127.0.0.1:1/0")

    conf: Any = celery.conf
    assert (conf.task_acks_late, conf.task_ignore_result, conf.result_backend) == (False, True, None)
    assert (conf.worker_prefetch_multiplier, conf.worker_disable_prefetch) == (1, True)
    assert (conf.task_create_missing_queues, conf.accept_content) == (False, ["json"])


def test_rabbitmq_gets_quorum_queues() -> None:
    celery = create_celery("test", "amqp://127.0.0.1:1//")

    assert {queue.queue_arguments["x-queue-type"] for queue in celery.conf.task_queues} == {"quorum"}
    assert celery.conf.worker_detect_quorum_queues
    assert not celery.conf.worker_enable_prefetch_count_reduction
