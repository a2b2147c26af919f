"""The path with RabbitMQ as the broker: quorum queues, a `kill -9` of the node under load, and its alarms."""

import os
import signal
import time

import httpx
import pytest

from celeryconfig import QUEUES
from prove.installation import Installation
from prove.rabbitmq import RabbitMQ
from sandbox.client import SandboxClient
from tests.failure.test_path import (
    answered,
    said,
    say,
    test_a_redelivery_is_answered_once,  # noqa: F401  these are collected here again, with this broker
    test_ready_means_ready,  # noqa: F401
    test_the_turn_of_a_killed_worker_is_answered_by_another,  # noqa: F401
    test_twenty_quick_messages_keep_their_order_over_two_sockets,  # noqa: F401
    wait_for,
)

pytestmark = [pytest.mark.failure, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def broker(rabbit: RabbitMQ) -> dict[str, str]:
    return {"SWITCHYARD_BROKER_URL": rabbit.url}


def test_there_are_four_quorum_queues_and_no_other_of_ours(house: Installation, rabbit: RabbitMQ) -> None:
    """Each quorum queue costs a RabbitMQ memory and disk; the others are those through which workers are asked."""
    rows = [row.split() for row in rabbit.control("list_queues", "-p", "switchyard", "name", "type").split("\n")[1:]]

    ours = {tuple(row) for row in rows if row and not row[0].endswith(".pidbox")}

    assert ours == {(name, "quorum") for name in QUEUES}


def is_ready(house: Installation) -> bool:
    return httpx.get(f"http://127.0.0.1:{house.web_port}/readyz", timeout=20).status_code == 200


def test_a_killed_node_costs_no_answer(house: Installation, people: SandboxClient, rabbit: RabbitMQ) -> None:
    """While turns run, and with messages that are accepted while it is away: every process finds it again."""
    pids = {one["pid"] for one in house.processes()}
    sent = say(people, [said(f"p{number}", 0, "word " * 20) for number in range(10)])
    wait_for(lambda: people.log(0, "created"))

    rabbit.kill()
    sent += say(people, [said(f"p{number}", 1) for number in range(10)])
    wait_for(lambda: len(people.log(0, "acked")) == len(sent))
    missed = not is_ready(house)
    rabbit.start()

    assert answered(people, sent).holds()
    assert missed
    wait_for(lambda: is_ready(house))
    assert {one["pid"] for one in house.processes()} == pids


def test_an_alarm_stops_nobody_for_good(house: Installation, people: SandboxClient, rabbit: RabbitMQ) -> None:
    """RabbitMQ short of memory reads no wake-ups; what is accepted meanwhile is answered when it is over."""
    first = say(people, [said("ann", 0)])
    answered(people, first)

    with rabbit.alarm():
        sent = say(people, [said(f"p{number}", number) for number in range(10)])
        wait_for(lambda: len(people.log(0, "acked")) == len(first) + len(sent))

    assert answered(people, first + sent).holds()


def test_a_frozen_node_stops_nobody_for_good(house: Installation, people: SandboxClient, rabbit: RabbitMQ) -> None:
    os.kill(rabbit.pid, signal.SIGSTOP)
    try:
        sent = say(people, [said(f"p{number}", 0) for number in range(10)])
        wait_for(lambda: len(people.log(0, "acked")) == len(sent))
        time.sleep(1.0)
    finally:
        os.kill(rabbit.pid, signal.SIGCONT)

    assert answered(people, sent).holds()
