"""A whole installation runs full: nothing new is acknowledged, nothing acknowledged is lost, and it mends itself."""

import random
import re
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import redis

from app.disk import LOOK_AGAIN_S, MB
from app.servers import last_known, resolved
from app.settings import Settings
from app.status import report
from prove.installation import Installation, installation
from prove.plan import Plan
from sandbox.client import SandboxClient
from sandbox.process import Sandbox
from tests.failure.test_path import answered, said, say, wait_for
from tests.small_disk import SmallDisk, run_in_namespace, small_disk

pytestmark = [pytest.mark.failure, pytest.mark.timeout(240)]
STAYS_FREE_MB = 24
FULL = "the record is full: frames are kept and tried again"
NO_ROOM = "the disk is full, make room"


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallDisk]:
    with small_disk(tmp_path_factory.mktemp("full") / "data", 64) as disk:
        yield disk


@pytest.fixture(scope="module")
def house(disk: SmallDisk, sandbox: Sandbox) -> Iterator[Installation]:
    """An installation whose data folder is on the small disk."""
    settings = {
        **Plan().environment(),
        "SWITCHYARD_POOLS": "text=1,image=0,default=1,sender=1",
        "SWITCHYARD_ECHO_TOKENS_PER_S": "20",
        "SWITCHYARD_DISK_FREE_MB": str(STAYS_FREE_MB),
        "SWITCHYARD_DISK_FREE_PERCENT": "5",
    }
    with installation(disk.folder.parent, sandbox, settings) as house:
        yield house


@pytest.fixture(autouse=True)
def room_for_the_next_test(disk: SmallDisk) -> Iterator[None]:
    yield
    disk.make_room()


def get(house: Installation, page: str) -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{house.web_port}{page}", timeout=30)


def missing(house: Installation) -> str:
    """What the machine says that it lacks; empty when it is ready."""
    answer = get(house, "/readyz")
    assert (answer.status_code == 503) is ("missing" in answer.json())
    return "\n".join(answer.json().get("missing", []))


def status(house: Installation) -> str:
    settings = Settings(data_dir=house.data_dir, disk_free_mb=STAYS_FREE_MB, _env_file=None)
    return "\n".join(report(resolved(settings)))


def refusals(house: Installation) -> int:
    """How often the listener has said that the record is full."""
    return (house.data_dir / "logs" / "listener-1.log").read_text().count(FULL)


def acknowledged(people: SandboxClient) -> list[dict[str, Any]]:
    return people.log(0, "acked")


def runs_full(disk: SmallDisk, leave: int) -> None:
    """The disk is full, for long enough that nobody still thinks otherwise."""
    disk.fill(leave)
    time.sleep(1.1 * LOOK_AGAIN_S)


def test_on_a_short_disk_nothing_new_is_acknowledged_and_all_else_goes_on(
    house: Installation, people: SandboxClient, disk: SmallDisk
) -> None:
    before = say(people, [said(f"p{number}", 0, "word " * 60) for number in range(5)])
    wait_for(lambda: len(acknowledged(people)) == 5)

    runs_full(disk, leave=STAYS_FREE_MB * MB // 2)
    late = say(people, [said(f"late{number}", 0) for number in range(5)])
    wait_for(lambda: refusals(house))
    answered(people, before)

    assert len(acknowledged(people)) == 5
    assert re.search(r"the record's disk is full, 1[12] MB are free and 24 MB must stay so: make room", missing(house))
    assert f"make room on the disk of {house.data_dir}" in status(house)
    wait_for(
        lambda: 'switchyard_full{reason="disk"} 1.0' in get(house, "/metrics").text
    )  # a reading may be a second old

    disk.make_room()

    assert answered(people, before + late).holds()
    wait_for(lambda: not missing(house))
    assert "FAULT" not in status(house)
    wait_for(lambda: 'switchyard_full{reason="disk"} 0.0' in get(house, "/metrics").text)
    assert refusals(house) == 1


def test_a_record_without_memory_drains_and_workers_that_die_meanwhile_come_back(
    house: Installation, people: SandboxClient
) -> None:
    told, server = refusals(house), last_known("redis", house.data_dir)
    assert server
    before = say(people, [said(f"p{number}", 0, "word " * 30) for number in range(3)])
    wait_for(lambda: len(acknowledged(people)) == 3)

    with redis.Redis.from_url(server.url.get_secret_value()) as record:
        limit = record.config_get("maxmemory")["maxmemory"]
        record.config_set("maxmemory", "1")
        try:
            house.kill("text", random.Random(1))
            late = say(people, [said(f"late{number}", 0) for number in range(2)])
            wait_for(lambda: refusals(house) > told)
            answered(people, before)
            acknowledged_while_full, said_missing = len(acknowledged(people)), missing(house)
        finally:
            record.config_set("maxmemory", limit)

    assert limit == str(1024 * MB)
    assert acknowledged_while_full == 3
    assert "the record's memory is full" in said_missing
    assert answered(people, before + late).holds()
    wait_for(lambda: not missing(house))


def test_a_record_that_dies_of_a_full_disk_has_lost_nothing_when_there_is_room_again(
    house: Installation, people: SandboxClient, disk: SmallDisk
) -> None:
    told = refusals(house)
    before = say(people, [said(f"p{number}", 0, "word " * 60) for number in range(8)])
    wait_for(lambda: len(acknowledged(people)) == 8)

    runs_full(disk, leave=0)
    wait_for(lambda: NO_ROOM in (disk.folder.parent / "up.log").read_text())
    late = say(people, [said(f"late{number}", 0) for number in range(5)])
    wait_for(lambda: refusals(house) > told)
    said_missing, states = missing(house), [one["state"] for one in house.processes("redis")]

    assert len(acknowledged(people)) == 8
    assert states == ["restarting"]
    assert "the record's disk is full, 0 MB are free" in said_missing
    assert "record: does not answer" in said_missing

    disk.make_room()

    assert answered(people, before + late).holds()
    wait_for(lambda: not missing(house))


def test_all_of_this_where_only_a_namespace_may_mount() -> None:
    run_in_namespace(__file__, marker="failure")
