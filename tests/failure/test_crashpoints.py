"""A process dies exactly between two steps, at each pair of steps of the path, and nobody hears of it."""

from collections.abc import Iterator
from typing import Any

import pytest

from app.crashpoints import Act, Obeyed, Order, Point, give_order, obeyed
from prove.installation import Installation, installation
from prove.plan import Plan
from prove.verdict import ANSWERS, Sent, Verdict
from sandbox.client import Event, SandboxClient
from sandbox.process import Sandbox
from tests.app.supervised import is_gone
from tests.failure.test_path import answered, said, say, wait_for

pytestmark = [pytest.mark.failure, pytest.mark.timeout(240)]
LEASE_S = 1.5
IN_TURNS: list[Point] = ["lease/execute", "commit/wake"]  # and execute/commit, by the environment
IN_SENDERS: list[Point] = ["create/update", "update/finish", "call/mark"]


@pytest.fixture(scope="module")
def house(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A test installation; where somebody dies, another one is there."""
    settings = Plan().environment() | {
        "SWITCHYARD_TEST_INSTALLATION": "1",
        "SWITCHYARD_DIE_BETWEEN": "execute/commit",
        "SWITCHYARD_LEASE_S": str(LEASE_S),
        "SWITCHYARD_POOLS": "text=2,image=0,default=1,sender=2",
        "SWITCHYARD_ECHO_TOKENS_PER_S": "20",
    }
    with installation(tmp_path_factory.mktemp("house"), sandbox, settings) as house:
        yield house


def roles(house: Installation) -> dict[int, str]:
    return {one["pid"]: one["role"] for one in house.processes()}


def done_at(house: Installation, point: Point) -> Obeyed:
    """Wait until somebody was at a point and did what was ordered."""
    found: list[Obeyed] = wait_for(lambda: [one for one in obeyed(house.data_dir) if one.point == point])
    return found[-1]


def die_at(house: Installation, point: Point, act: Act = "die") -> None:
    """Order one more death, when all are there who may die."""
    house.wait_until(lambda: all(one["state"] == "ready" for one in house.processes()), "everything is ready")
    for path in (house.data_dir / "crashpoints").glob(f"{point.replace('/', '-')}.*"):
        path.unlink()
    give_order(house.data_dir, Order(point), act)


def killed(house: Installation, one: Obeyed) -> bool:
    """Whether the supervisor saw that process end by SIGKILL."""
    return is_gone(one.pid) and wait_for(lambda: "status=-9" in (house.data_dir.parent / "up.log").read_text())


def outsiders(number: int) -> list[dict[str, Any]]:
    """A message each of three people whom no card can reach."""
    names = [f"out{index}" for index in range(3)]
    return [{**said(name, number), "sender": f"$:LWCP_v1:${name}==", "staff": None} for name in names]


def followed(people: SandboxClient, sent: list[Sent]) -> Verdict:
    """The verdict when the next message of everybody is answered too: in order, so nothing comes after it twice."""
    answered(people, sent)
    everybody = {message.person: message.number for message in sent}
    return answered(people, sent + say(people, [said(person, last + 1) for person, last in everybody.items()]))


def test_the_environment_says_where(house: Installation, people: SandboxClient) -> None:
    """Here between execute and commit, and once for the data folder: the process that is started in its place lives."""
    sent = say(people, [said(f"p{number}", 0, "word " * 5) for number in range(3)])

    dead = done_at(house, "execute/commit")

    assert followed(people, sent).holds()
    assert killed(house, dead)
    assert len(obeyed(house.data_dir)) == 1


@pytest.mark.parametrize("point", IN_TURNS)
def test_a_worker_that_dies_between_two_steps(house: Installation, people: SandboxClient, point: Point) -> None:
    die_at(house, point)
    known = roles(house)

    sent = say(people, [said(f"p{number}", 0, "word " * 5) for number in range(3)])

    dead = done_at(house, point)
    assert followed(people, sent).holds()
    assert killed(house, dead)
    assert known[dead.pid] == "text"


@pytest.mark.parametrize("point", IN_SENDERS)
def test_a_sender_that_dies_between_two_steps_of_a_card(
    house: Installation, people: SandboxClient, point: Point
) -> None:
    """Every call has its key, so the next sender may repeat what this one did."""
    die_at(house, point)
    known = roles(house)

    sent = say(people, [said(f"p{number}", 0, "word " * 20) for number in range(3)])

    dead = done_at(house, point)
    assert followed(people, sent).holds()
    assert killed(house, dead)
    assert known[dead.pid] == "sender"


def test_a_sender_that_dies_between_a_message_and_its_mark_repeats_that_one(
    house: Installation, people: SandboxClient
) -> None:
    """A message has no key, and nobody can know whether it went out: it comes twice, and no other does."""
    die_at(house, "call/mark")

    sent = say(people, outsiders(0))
    dead = done_at(house, "call/mark")
    answered(people, sent)
    verdict = answered(people, sent + say(people, outsiders(1)))

    assert killed(house, dead)
    assert {event["kind"] for event in people.log(0, *ANSWERS)} == {"webhook"}
    assert [(name, len(found)) for name, found in verdict.faults().items() if found] == [("doubled", 1)]


def test_a_listener_that_dies_before_the_acknowledgement(house: Installation, people: SandboxClient) -> None:
    """The platform pushes again what nobody acknowledged, and the record knows it."""
    people.fault("redeliver_unacked", after_s=0.5)
    die_at(house, "accept/ack")
    known = roles(house)

    sent = say(people, [said(f"p{number}", 0) for number in range(3)])

    dead = done_at(house, "accept/ack")
    assert followed(people, sent).holds()
    assert killed(house, dead)
    assert known[dead.pid] == "listener"


def test_a_listener_that_dies_before_the_wake_up(house: Installation, people: SandboxClient) -> None:
    """Nothing but the sweeper knows of the message; a push that comes again is answered with an acknowledgement."""
    die_at(house, "accept/wake")
    message = said("ann", 0)

    (sent,) = say(people, [message])
    dead = done_at(house, "accept/wake")
    shown: list[Event] = wait_for(lambda: people.log(0, *ANSWERS))
    wait_for(lambda: people.connections())
    assert people.log(0, "acked") == []
    say(people, [{**message, "msgId": sent.msg_id}])
    wait_for(lambda: people.log(0, "acked"))

    assert sent.mark in shown[0]["text"]
    assert followed(people, [sent]).holds()
    assert killed(house, dead)
