"""A process dies exactly between two steps, at each pair of steps of the path, and nobody hears of it."""

import os
import signal
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from app.crashpoints import Obeyed, Order, Point, give_order, obeyed
from prove.installation import Installation, installation
from prove.plan import Plan
from prove.verdict import Sent, Verdict
from sandbox.client import Event, SandboxClient
from sandbox.journal import ANSWERS
from sandbox.process import Sandbox
from tests.app.supervised import is_gone
from tests.failure.test_path import answered, said, say, wait_for

pytestmark = [pytest.mark.failure, pytest.mark.timeout(240)]
LEASE_S = 1.0
# Each is hit once, by whatever process comes first; a message that is hit by two of them is not given up yet.
IN_TURNS: Sequence[Point] = ("lease/execute", "execute/commit", "commit/wake")
IN_CARDS: Sequence[Point] = ("create/update", "update/finish", "call/mark")


@pytest.fixture(scope="module")
def house(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A test installation; where somebody dies, another one is there."""
    settings = Plan().environment() | {
        "SWITCHYARD_TEST_INSTALLATION": "1",
        "SWITCHYARD_DIE_BETWEEN": ",".join(IN_TURNS),
        "SWITCHYARD_LEASE_S": str(LEASE_S),
        "SWITCHYARD_POOLS": "text=2,image=0,default=0,sender=2",
        "SWITCHYARD_ECHO_TOKENS_PER_S": "20",
    }
    with installation(tmp_path_factory.mktemp("house"), sandbox, settings) as house:
        yield house


def in_cards(number: int) -> list[dict[str, Any]]:
    """A message each of three people whose answers type for a second."""
    return [said(f"p{index}", number, "word " * 20) for index in range(3)]


def outsiders(number: int) -> list[dict[str, Any]]:
    """A message each of three people whom no card can reach."""
    names = [f"out{index}" for index in range(3)]
    return [{**said(name, number), "sender": f"$:LWCP_v1:${name}==", "staff": None} for name in names]


def await_all(house: Installation) -> None:
    """Wait until everybody is back who died before."""
    house.wait_until(lambda: all(one["state"] == "ready" for one in house.processes()), "everything is ready")


def order_anew(house: Installation, point: Point) -> None:
    """One death at this point, whatever happened there before."""
    for path in (house.data_dir / "crashpoints").glob(f"{point.replace('/', '-')}.*"):
        path.unlink()
    give_order(house.data_dir, Order(point))


def done_at(house: Installation, point: Point) -> Obeyed:
    """Wait until somebody was at a point and did what was ordered."""
    (found,) = wait_for(lambda: [one for one in obeyed(house.data_dir) if one.point == point])
    return found  # type: ignore[no-any-return]


def killed(house: Installation, *dead: Obeyed) -> bool:
    """Wait until these processes are gone, and their supervisor has seen as many end by SIGKILL."""

    def seen() -> bool:
        log = (house.data_dir.parent / "up.log").read_text()
        return all(is_gone(one.pid) for one in dead) and log.count("status=-9") >= len(dead)

    return bool(wait_for(seen))


def followed(people: SandboxClient, sent: list[Sent]) -> Verdict:
    """The verdict when the next message of everybody is answered too: in order, so nothing comes after it twice."""
    answered(people, sent)
    everybody = {message.person: message.number for message in sent}
    return answered(people, sent + say(people, [said(person, last + 1) for person, last in everybody.items()]))


def test_workers_that_die_between_the_steps_of_a_turn(house: Installation, people: SandboxClient) -> None:
    """The environment of `switchyard up` says where; once for each, so that those who are started instead live."""
    sent = say(people, in_cards(0))

    dead = [done_at(house, point) for point in IN_TURNS]

    assert followed(people, sent).holds()
    assert killed(house, *dead)
    assert len({one.pid for one in dead}) == len(obeyed(house.data_dir)) == 3


def test_senders_that_die_between_the_steps_of_a_card(house: Installation, people: SandboxClient) -> None:
    """Every call has its key, so the next sender may repeat what this one did."""
    await_all(house)
    for point in IN_CARDS:
        order_anew(house, point)

    sent = say(people, in_cards(0))

    dead = [done_at(house, point) for point in IN_CARDS]
    assert followed(people, sent).holds()
    assert killed(house, *dead)
    assert len({one.pid for one in dead}) == 3


def test_a_sender_that_dies_between_a_message_and_its_mark_repeats_that_one(
    house: Installation, people: SandboxClient
) -> None:
    """A message has no key, and nobody can know whether it went out: it comes twice, and no other does.

    It is the only one in the sender's hands: of several that a process was just sending, each may come twice.
    """
    await_all(house)
    order_anew(house, "call/mark")

    sent = say(people, outsiders(0)[:1])
    dead = done_at(house, "call/mark")
    answered(people, sent)
    verdict = answered(people, sent + say(people, outsiders(1)))

    assert killed(house, dead)
    assert {event["kind"] for event in people.log(0, *ANSWERS)} == {"webhook"}
    assert [(name, len(found)) for name, found in verdict.faults().items() if found] == [("doubled", 1)]


def test_a_sender_that_sleeps_past_its_lease_before_a_call_makes_it_no_more(
    house: Installation, people: SandboxClient
) -> None:
    """Another one did it meanwhile. No key is needed against the late call: it does not reach the platform."""
    await_all(house)
    give_order(house.data_dir, Order("check/call"), "freeze")

    sent = say(people, in_cards(0) + outsiders(0))
    asleep = done_at(house, "check/call")
    answered(people, sent)
    os.kill(asleep.pid, signal.SIGCONT)
    verdict = answered(people, sent + say(people, in_cards(1) + outsiders(1)))

    assert verdict.holds()
    assert people.log(0, "repeated") == []
    assert asleep.pid in [one["pid"] for one in house.processes("sender")]


def test_a_listener_that_dies_before_the_acknowledgement(house: Installation, people: SandboxClient) -> None:
    """The platform pushes again what nobody acknowledged, and the record knows it."""
    await_all(house)
    people.fault("redeliver_unacked", after_s=0.5)
    (listener,) = house.processes("listener")
    order_anew(house, "accept/ack")

    sent = say(people, [said(f"p{index}", 0) for index in range(3)])

    dead = done_at(house, "accept/ack")
    assert followed(people, sent).holds()
    assert killed(house, dead)
    assert dead.pid == listener["pid"]


def test_a_listener_that_dies_before_the_wake_up(house: Installation, people: SandboxClient) -> None:
    """Nothing but the sweeper knows of the message; a push that comes again is answered with an acknowledgement."""
    await_all(house)
    order_anew(house, "accept/wake")
    message = said("ann", 0)

    (sent,) = say(people, [message])
    dead = done_at(house, "accept/wake")
    shown: list[Event] = wait_for(lambda: people.log(0, *ANSWERS))
    wait_for(people.connections)
    assert people.log(0, "acked") == []
    say(people, [{**message, "msgId": sent.msg_id}])
    wait_for(lambda: people.log(0, "acked"))

    assert sent.mark in shown[0]["text"]
    assert followed(people, [sent]).holds()
    assert killed(house, dead)
