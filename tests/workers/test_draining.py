"""A real worker under load is told to leave: what runs is finished or handed back, and nothing is seen twice."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.message import Message
from app.process import EVERYTHING_STOPS
from app.queue import Waker
from sandbox.client import Event, SandboxClient
from sandbox.process import Sandbox
from tests.app.supervised import eventually
from tests.samples import a_message
from tests.workers.desk import House
from tests.workers.worker import DRAIN_S, LEAVE_S, Worker, spoken_to

PROACTIVELY = "/v1.0/robot/oToMessages/batchSend"
MESSAGES = {"SWITCHYARD_REPLY_MODE": "markdown"}  # no webhook is known here: they go by the robot's own API


@pytest.fixture
def people(platform: Sandbox) -> Iterator[SandboxClient]:
    with SandboxClient(platform.url) as people:
        people.clear_faults()
        people.reset()
        yield people


@pytest.fixture
def owe(house: House, waker: Waker, platform: Sandbox) -> Callable[[str, str], Message]:
    """A reply to a person waits for the sender, which is woken."""

    def reply_waits(person: str, text: str) -> Message:
        message = house.owes(spoken_to(platform, a_message(sender=person)), text)
        waker.wake("send", message.conversation)
        return message

    return reply_waits


def shown(people: SandboxClient) -> list[str]:
    """What people saw, in order."""
    return [str(event["text"]) for event in messages(people)]


def messages(people: SandboxClient) -> list[Event]:
    return people.log(0, "proactive", "finished")


def test_thirty_two_long_turns_are_handed_back_in_time_and_answered_by_the_next_process(
    start: Callable[..., Worker], wake: Callable[..., Message], house: House
) -> None:
    """Each would take a minute. Nobody waits for them, and nobody is blamed."""
    slots = {"SWITCHYARD_SLOTS": "32", "SWITCHYARD_CARD_INTERVAL_MS": "200"}
    leaving = start("text", SWITCHYARD_ECHO_TOKENS_PER_S="1", **slots).until_ready()
    long = [wake(a_message(text=f"{number} " * 60, sender=f"p{number}"), "text") for number in range(32)]
    eventually(lambda: all(house.draft(message) for message in long), within_s=60.0)

    began = time.monotonic()
    leaving.terminate()
    status = leaving.status(LEAVE_S)
    took_s = time.monotonic() - began
    items = [house.head(message) for message in long]
    start("text", SWITCHYARD_ECHO_TOKENS_PER_S="0", **slots).until_ready()
    eventually(lambda: all(house.texts(message) for message in long), within_s=60.0)

    assert status == 0, leaving.log
    assert took_s < DRAIN_S + 4  # on a busy machine; nobody kills it here
    assert [(item["vanished"], item["raised"]) for item in items] == [(0, 0)] * 32
    assert [house.texts(message) for message in long] == [[(f"{number} " * 60).strip()] for number in range(32)]


def test_a_sender_waits_for_the_call_that_is_under_way(
    start: Callable[..., Worker], owe: Callable[[str, str], Message], people: SandboxClient, house: House
) -> None:
    """The platform shows a message at once and answers late: whoever is killed meanwhile has sent it and knows not."""
    people.answer(PROACTIVELY, "slow_after", delay_ms=4000)
    sender = start("sender", **MESSAGES).until_ready()
    message = owe("ann", "the answer")
    eventually(lambda: shown(people) == ["the answer"])

    sender.terminate()
    status = sender.status(LEAVE_S)

    assert status == 0, sender.log
    assert house.items("outbox", message) == []


def test_a_sender_that_is_told_to_leave_begins_no_message_that_might_outlive_it(
    start: Callable[..., Worker], owe: Callable[[str, str], Message], people: SandboxClient, house: House
) -> None:
    """Everything stops soon: cards go out to the end, a message without a key is left to the next sender."""
    sender = start("sender", **MESSAGES).until_ready()
    sender.process.send_signal(EVERYTHING_STOPS)
    message = owe("ann", "the answer")
    eventually(lambda: "reply left to another sender" in sender.log)
    before = shown(people)

    sender.terminate()
    status = sender.status(LEAVE_S)
    (item,) = house.items("outbox", message)
    start("sender", **MESSAGES).until_ready()
    eventually(lambda: house.items("outbox", message) == [])

    assert (status, before, shown(people)) == (0, [], ["the answer"])
    assert (item["vanished"], item["raised"]) == (0, 0)


def test_a_worker_whose_threads_were_busy_fetches_as_soon_as_one_is_free(
    start: Callable[..., Worker],
    wake: Callable[..., Message],
    house: House,
    sleepy: dict[str, str],
    tmp_path: Path,
) -> None:
    """Seven of eight threads wait; the last one serves thirty people, and not one a second."""
    started, go = [tmp_path / f"started{number}" for number in range(7)], tmp_path / "go"
    start("default", **sleepy).until_ready()
    for number, file in enumerate(started):
        wake(a_message(text=f"/wait {file} {go}", sender=f"slow{number}"), "default")
    eventually(lambda: all(file.exists() for file in started))

    began = time.monotonic()
    quick = [wake(a_message(text="/new", sender=f"quick{number}"), "default") for number in range(30)]
    eventually(lambda: all(house.texts(message) for message in quick), within_s=60.0)
    took_s = time.monotonic() - began
    go.touch()

    assert took_s < 15  # one a second would be twice as long
