"""Two machines, each with a supervisor and a data folder of its own, on one record and one broker."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from prove.installation import Installation, installation
from prove.plan import Plan
from sandbox.client import SandboxClient
from sandbox.process import Sandbox
from tests.failure.test_path import answered, said, say, wait_for
from tests.valkey import valkey

pytestmark = [pytest.mark.failure, pytest.mark.timeout(240)]

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


@pytest.fixture(scope="module")
def machines(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Installation]]:
    folder: Path = tmp_path_factory.mktemp("machines")
    with (
        valkey(folder / "record", *DURABLE) as record,
        valkey(folder / "broker") as broker,
        # A machine ends with the thread that started it, so the threads live as long as the machines.
        ThreadPoolExecutor(2) as threads,
        ExitStack() as running,
    ):
        settings = Plan().environment() | {
            "SWITCHYARD_REDIS_URL": record,
            "SWITCHYARD_BROKER_URL": broker,
            "SWITCHYARD_POOLS": "text=1,image=0,default=0,sender=1",
            "SWITCHYARD_ECHO_TOKENS_PER_S": "20",
        }

        def start(name: str) -> Installation:
            return running.enter_context(installation(folder / name, sandbox, settings))

        for name in ("one", "two"):
            (folder / name).mkdir()
        started = list(threads.map(start, ("one", "two")))
        yield started
        for machine in started:
            if machine.process.poll() is None:
                kill_whole(machine)  # a clean end takes its time, and is not what is shown here


@pytest.fixture
def people(machines: list[Installation], sandbox: Sandbox) -> Iterator[SandboxClient]:
    """What people do and see. The platform pushes again what was not acknowledged, to whichever machine."""
    with SandboxClient(sandbox.url) as client:
        client.clear_faults()
        client.reset()
        client.fault("redeliver_unacked", after_s=1.0)
        yield client


def ready(machine: Installation) -> bool:
    return httpx.get(f"http://127.0.0.1:{machine.web_port}/readyz").status_code == 200


def kill_whole(machine: Installation) -> None:
    """The power of a machine fails: supervisor and all, at once."""
    pids = [one["pid"] for one in machine.processes()]
    for pid in (machine.process.pid, *pids):
        os.kill(pid, signal.SIGKILL)
    machine.process.wait()


def wait_for_goodbyes(people: SandboxClient, count: int) -> None:
    wait_for(lambda: sum(event["topic"] == "disconnect" for event in people.log(0, "system")) >= count)


def test_two_machines_give_one_answer_each_in_order(machines: list[Installation], people: SandboxClient) -> None:
    """Each frame reaches both machines, some again after their ack; Ann's quick messages go over all four sockets."""
    assert [ready(machine) for machine in machines] == [True, True]
    assert len(people.connections()) == 4
    everywhere = [{**said(f"p{number}", 0), "connection": "all", "redeliveries": 1} for number in range(12)]

    sent = say(people, [said("ann", 0, "word " * 60), *everywhere])
    wait_for(lambda: [event for event in people.log(0, "created") if event["person"] == "ann"])
    sent += say(people, [{**said("ann", number), "connection": number % 4} for number in range(1, 9)])
    verdict = answered(people, sent)

    assert verdict.holds()
    assert len({event["connection"] for event in people.log(0, "acked")}) == 4
    order = [event["text"].split("#")[1] for event in people.log(0, "finished") if event["person"] == "ann"]
    assert order == [f"annm{number}" for number in range(9)]


def test_when_one_machine_dies_whole_the_other_goes_on(machines: list[Installation], people: SandboxClient) -> None:
    sent = say(people, [said(f"p{number}", 0, "word " * 30) for number in range(12)])
    wait_for(lambda: len(people.log(0, "created")) > 2)

    kill_whole(machines[0])
    sent += say(people, [said(f"p{number}", 1) for number in range(12)])

    assert answered(people, sent).holds()
    assert len(people.connections()) == 2
    assert ready(machines[1])


def test_goodbyes_every_few_seconds_leave_nobody_unheard(machines: list[Installation], people: SandboxClient) -> None:
    """On the one machine that is left, with its two connections, and a gateway that takes its time."""
    people.fault("slow_open", delay_ms=300, times=None)
    people.fault("disconnect_every", every_s=1.5, close_after_s=0.5)
    sent = []
    for number in range(4):
        sent += say(people, [said(f"q{person}", number) for person in range(5)])
        wait_for_goodbyes(people, number + 1)
    verdict = answered(people, sent)

    assert verdict.holds()
    assert verdict.answered == 20
    assert people.log(0, "uncovered", "unpushed") == []
