"""Wake-ups on a real RabbitMQ: confirmed, and never a reason to wait, whatever the broker does."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from app.backlog import Backlog
from app.queue import ROUTES, Waker, create_celery, queue_lengths, strange_queues
from app.redis import Store
from app.web.readiness import broker_answers
from prove.rabbitmq import RabbitMQ
from tests.app.supervised import eventually, switchyard

LIMIT_S = 60.0
AT_ONCE_S = 4.0  # the broker is given five seconds for an answer, by the thread that publishes


@pytest.fixture
def celery(rabbit: RabbitMQ) -> Celery:
    """An app on a broker whose queues are there and empty."""
    celery = create_celery("test", rabbit.url)
    with a_channel(celery) as channel:
        for queue in celery.conf.task_queues:
            queue(channel).declare()
            queue(channel).purge()
    return celery


@pytest.fixture
def waker(celery: Celery) -> Iterator[Waker]:
    waker = Waker(celery)
    yield waker
    waker.close(0.2)


@contextmanager
def a_channel(celery: Celery) -> Iterator[Any]:
    with celery.connection_for_write() as connection, connection.channel() as channel:
        yield channel


def waiting(celery: Celery, queue: str, count: int) -> list[Any]:
    """Take so many messages out of a queue, as soon as they are there."""
    taken: list[Any] = []

    def enough() -> bool:
        with a_channel(celery) as channel:
            while len(taken) < count and (message := channel.basic_get(queue, no_ack=True)):
                taken.append(channel.message_to_python(message))
        return len(taken) == count

    eventually(enough, within_s=LIMIT_S)
    return taken


def arrives_again(celery: Celery, waker: Waker) -> bool:
    waker.wake("text", "again")
    return bool((queue_lengths(celery) or {}).get("text"))


def took_s(action: Callable[[], object]) -> float:
    began = time.monotonic()
    action()
    return time.monotonic() - began


def wake_many(waker: Waker) -> None:
    for number in range(1000):
        waker.wake("image", str(number))


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("queue", ROUTES)
def test_a_wake_up_is_a_task_with_a_conversations_id(celery: Celery, waker: Waker, queue: str) -> None:
    waker.wake(queue, "dingtalk:bot:cid1:ann")

    (message,) = waiting(celery, ROUTES[queue].queue, 1)

    assert message.decode()[:2] == [["dingtalk:bot:cid1:ann"], {}]
    assert message.headers["task"] == ROUTES[queue].task


def test_every_wake_up_is_published(celery: Celery, waker: Waker) -> None:
    for number in range(350):
        waker.wake("text", f"conversation {number}")

    messages = waiting(celery, "text", 350)

    assert {one.decode()[0][0] for one in messages} == {f"conversation {number}" for number in range(350)}


def test_a_close_publishes_what_is_due(celery: Celery) -> None:
    waker = Waker(celery)
    for number in range(20):
        waker.wake("text", str(number))

    waker.close(LIMIT_S)

    assert len(waiting(celery, "text", 20)) == 20


def test_the_lengths_of_queues_are_known(celery: Celery, waker: Waker) -> None:
    for number in range(3):
        waker.wake("text", str(number))

    eventually(lambda: queue_lengths(celery) == {"text": 3, "image": 0, "default": 0, "send": 0}, within_s=LIMIT_S)


def new_vhost(rabbit: RabbitMQ, name: str) -> str:
    """The address of a vhost without queues."""
    rabbit.control("add_vhost", name)
    rabbit.control("set_permissions", "-p", name, "switchyard", ".*", ".*", ".*")
    return f"{rabbit.url.rpartition('/')[0]}/{name}"


def test_a_queue_that_nobody_has_declared_is_empty(rabbit: RabbitMQ) -> None:
    """As on the first start, before the workers are there."""
    lengths = queue_lengths(create_celery("test", new_vhost(rabbit, "new")))

    assert lengths == {"text": 0, "image": 0, "default": 0, "send": 0}


def test_a_killed_broker_is_missed_by_nobody_and_found_again(
    rabbit: RabbitMQ, celery: Celery, waker: Waker, store: Store
) -> None:
    """What must go on is due in the record; the queues are on the broker's disk."""
    waker.wake("send", "before")
    waiting(celery, "send", 1)
    rabbit.settle()
    filled = Backlog(celery, waker, store, wary_s=1000.0)

    rabbit.kill()
    waited_s, asked_s = took_s(lambda: wake_many(waker)), took_s(lambda: queue_lengths(celery))
    unknown = queue_lengths(celery)
    rabbit.start()

    eventually(lambda: arrives_again(celery, waker), within_s=LIMIT_S)
    assert filled() == []  # wake-ups were lost: whose it was does not wait behind this one
    assert Backlog(celery, Waker(celery), store, wary_s=1000.0)() == ["text"]
    assert waited_s < AT_ONCE_S
    assert asked_s < LIMIT_S
    assert unknown is None


def test_a_wake_up_is_not_lost_on_a_connection_that_died_unnoticed(
    rabbit: RabbitMQ, celery: Celery, waker: Waker
) -> None:
    waker.wake("text", "before")
    waiting(celery, "text", 1)
    rabbit.control("close_all_connections", "--global", "a test")

    waker.wake("text", "after")

    assert waiting(celery, "text", 1)[0].decode()[0] == ["after"]


def test_an_alarm_blocks_nobody(rabbit: RabbitMQ, celery: Celery, waker: Waker) -> None:
    """RabbitMQ then reads nothing from those who publish; who waits for its confirmation waits for ever."""
    waker.wake("text", "before")
    waiting(celery, "text", 1)

    with rabbit.alarm():
        waited_s = took_s(lambda: wake_many(waker))
        eventually(lambda: "blocked" in rabbit.control("list_connections", "state"), within_s=LIMIT_S)
        known = queue_lengths(celery)
        ending = Waker(celery)
        ending.wake("text", "never")
        closed_s = took_s(lambda: ending.close(2.0))

    assert max(waited_s, closed_s) < AT_ONCE_S
    assert known is not None
    eventually(lambda: arrives_again(celery, waker), within_s=LIMIT_S)


def test_a_frozen_broker_blocks_nobody(rabbit: RabbitMQ, celery: Celery, waker: Waker) -> None:
    """It takes connections and says nothing."""
    waker.wake("text", "before")
    waiting(celery, "text", 1)

    with frozen(rabbit.pid):
        waited_s = took_s(lambda: wake_many(waker))
        unknown = queue_lengths(celery)

    assert waited_s < AT_ONCE_S
    assert unknown is None
    eventually(lambda: arrives_again(celery, waker), within_s=LIMIT_S)


def wrong(url: str) -> list[str]:
    """Its address with another password, and with another vhost."""
    account, _, place = url.partition("@")
    return [f"{account}-wrong@{place}", f"{url}-of-nobody"]


def test_who_is_refused_is_told_so(rabbit: RabbitMQ) -> None:
    assert broker_answers(rabbit.url)
    for url in wrong(rabbit.url):
        assert not broker_answers(url)
        assert queue_lengths(create_celery("test", url)) is None


def test_doctor_names_what_is_wrong_with_a_broker(rabbit: RabbitMQ, tmp_path: Path) -> None:
    """A queue of somebody else's, or of another kind, lets no worker start."""
    strange = new_vhost(rabbit, "strange")
    celery = create_celery("test", strange)
    with a_channel(celery) as channel:
        channel.queue_declare("text", durable=True, auto_delete=False)

    found = switchyard(tmp_path, "doctor", SWITCHYARD_BROKER_URL=strange).stdout
    refused = switchyard(tmp_path, "doctor", SWITCHYARD_BROKER_URL=wrong(rabbit.url)[0]).stdout

    assert strange_queues(celery) == ["text"]
    assert queue_lengths(celery) == {"text": 0, "image": 0, "default": 0, "send": 0}
    assert "fault   broker: the queue text is there" in found
    assert "delete_queue -p <vhost> text" in found
    assert "AccessRefused" in refused
    assert rabbit.url.partition("@")[0].rpartition(":")[2] not in found + refused
