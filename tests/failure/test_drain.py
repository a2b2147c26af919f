"""Processes are told to leave while people talk: upgrades, scaling, a machine that goes down. Nobody notices."""

import itertools
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from app.control import RESTART_UNDER_WAY, ask
from prove.installation import Installation, installation
from prove.plan import Plan
from prove.verdict import Sent, Verdict, judge
from sandbox.client import SandboxClient
from sandbox.process import Sandbox
from tests.failure.test_path import answered, said, say, wait_for

pytestmark = [pytest.mark.failure, pytest.mark.timeout(240)]

DRAIN_S = 6.0
STOPPED_S = DRAIN_S + 4.0  # with what it takes to see it, on a busy machine
SEED = 7
SETTINGS = {
    **Plan().environment(),
    "SWITCHYARD_LOCALE": "en",
    "SWITCHYARD_DRAIN_S": str(DRAIN_S),
    "SWITCHYARD_SLOTS": "32",
    "SWITCHYARD_POOLS": "text=1,image=1,default=1,sender=1",
    "SWITCHYARD_ECHO_TOKENS_PER_S": "3",
    "SWITCHYARD_CARD_INTERVAL_MS": "800",
}
SERVERS = ("redis", "broker")
PAUSE_S = 0.05  # people take a breath: a slow machine is not to be asked thousands of things


class Chatter:
    """People who talk on, one message after another, a few at a time."""

    def __init__(self, people: SandboxClient) -> None:
        self._people = people
        self._number = 0
        self.sent: list[Sent] = []

    def go_on(self, persons: int = 6) -> None:
        """Everybody says one more thing: some of it takes a while, some is for the pool `default`."""
        marked = [self._message(index, (index + self._number) % 3) for index in range(persons)]
        self.sent += say(self._people, marked)
        self._number += 1

    def _message(self, index: int, kind: int) -> dict[str, Any]:
        message = said(f"p{index}", self._number, "word " * 4 if kind == 1 else "")
        return {**message, "text": f"/slow {message['text']}"} if kind == 2 else message


class Machine:
    """One data folder, and what runs on it: a supervisor, and after its stop the next one."""

    def __init__(self, folder: Path, sandbox: Sandbox) -> None:
        self._folder, self._sandbox = folder, sandbox
        self._life = ExitStack()

    def start(self, **settings: str) -> Installation:
        return self._life.enter_context(installation(self._folder, self._sandbox, {**SETTINGS, **settings}))

    def stop(self) -> float:
        """SIGTERM to the supervisor; seconds until it has ended."""
        began = time.monotonic()
        self._life.close()
        return time.monotonic() - began


@pytest.fixture(scope="module")
def machine(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    machine = Machine(tmp_path_factory.mktemp("house"), sandbox)
    yield machine
    machine.stop()


@pytest.fixture(scope="module")
def house(machine: Machine) -> Installation:
    return machine.start()


def pids(house: Installation, role: str) -> list[int]:
    return [one["pid"] for one in house.processes(role)]


def whole(house: Installation, role: str, count: int = 1) -> bool:
    return [one["state"] for one in house.processes(role)] == ["ready"] * count


def told_to_leave(house: Installation, *roles: str) -> float:
    """SIGTERM to the one process of each role at once, as from an operator; seconds until the last was gone."""
    before = [pid for role in roles for pid in pids(house, role)]
    for pid in before:
        os.kill(pid, signal.SIGTERM)
    left_s = house.wait_until(lambda: not {one["pid"] for one in house.processes()} & {*before}, f"{roles} leave")
    house.wait_until(lambda: all(whole(house, role) for role in roles), f"{roles} are back")
    return left_s


def test_each_role_is_told_to_leave_under_load_in_any_order(house: Installation, people: SandboxClient) -> None:
    """Also the servers, and two at a time. The order is drawn; SEED draws the same one again."""
    order = sorted({one["role"] for one in house.processes()})
    random.Random(SEED).shuffle(order)
    chatter = Chatter(people)

    left_s = {}
    for pair in zip(order[::2], order[1::2], strict=True):
        chatter.go_on()
        left_s[pair] = told_to_leave(house, *pair)
        chatter.go_on()
    verdict = answered(people, chatter.sent)

    assert verdict.holds(), verdict.faults()
    assert len(order) == 8
    assert max(left_s.values()) < STOPPED_S, left_s


def test_pools_are_scaled_to_nothing_and_back_under_load(house: Installation, people: SandboxClient) -> None:
    """What comes meanwhile waits, what runs is finished, and nobody sees more than that it takes longer."""
    chatter = Chatter(people)
    chatter.go_on()
    house.scale(sender=0, default=0)
    chatter.go_on()
    for role in ("sender", "default"):
        house.wait_until(lambda role=role: whole(house, role, 0), f"no {role}")  # type: ignore[misc]
    chatter.go_on()
    wait_for(lambda: len(people.log(0, "acked")) == len(chatter.sent))
    meanwhile = judge(chatter.sent, people.log())
    house.scale(sender=1, default=1)
    chatter.go_on()

    verdict = answered(people, chatter.sent)

    assert verdict.holds(), verdict.faults()
    assert len(meanwhile.lost) >= 6  # the last ones at least have no answer yet
    assert not meanwhile.doubled + meanwhile.out_of_order


def settled(people: SandboxClient, sent: list[Sent]) -> Verdict | None:
    """The verdict when everything that was acknowledged is answered; a frame on a socket that closes may not be."""
    verdict = judge(sent, people.log())
    return None if verdict.lost or verdict.left_typing else verdict


def test_a_restart_of_the_listener_leaves_no_moment_unheard(house: Installation, people: SandboxClient) -> None:
    """What the platform hands to nobody may be gone: the next listener is connected before this one leaves."""
    before, numbers, sent = pids(house, "listener"), itertools.count(), []

    ask(house.data_dir, {"do": "restart", "roles": ["listener"]})
    while ask(house.data_dir, {"do": "ps"})["restart"] == RESTART_UNDER_WAY:
        sent += say(people, [said(f"new{next(numbers)}", 0) for _ in range(3)])
        time.sleep(PAUSE_S)
    verdict = wait_for(lambda: settled(people, sent))

    assert verdict.holds(), verdict.faults()
    assert people.log(0, "unpushed") == []
    assert not {*before} & {*pids(house, "listener")}


def typing(people: SandboxClient, since: int = 0) -> int:
    """How many cards were written to."""
    return len({event["card"] for event in people.log(since, "created", "updated")})


def test_thirty_two_turns_of_a_minute_are_left_in_time_and_answered_after(
    machine: Machine, house: Installation, people: SandboxClient
) -> None:
    """First their worker is told to leave, then the whole machine: each has one card, which is finished in the end."""
    sent = say(people, [said(f"long{number}", 0, "word " * 180) for number in range(32)])
    wait_for(lambda: typing(people) == 32)

    left_s = told_to_leave(house, "text")
    since = people.last()
    wait_for(lambda: typing(people, since) == 32)
    stopped_s = machine.stop()
    cut = judge(sent, people.log())
    closes = [event["code"] for event in people.log(0, "closed")]
    machine.start(SWITCHYARD_ECHO_TOKENS_PER_S="0", SWITCHYARD_POOLS="text=1,image=0,default=0,sender=1")
    verdict = answered(people, sent)

    assert verdict.holds(), verdict.faults()
    assert (len(cut.lost), len(cut.left_typing)) == (32, 32)
    assert len(people.log(0, "created")) == 32
    assert set(closes) == {1000}
    assert left_s < STOPPED_S
    assert stopped_s < STOPPED_S
