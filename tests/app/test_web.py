"""Readiness as a load balancer reads it: the supervisor's list, and what the servers and the platform say today."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from pydantic import SecretStr

from app import keys
from app.control import serve
from app.machine import machine_name
from app.room import shortages
from app.servers import prepare
from app.settings import Settings
from app.web.readiness import missing_of
from app.web.server import application
from tests.valkey import free_port, valkey

READY = {"started": True, "processes": [{"role": "text", "state": "ready"}]}
LISTENING = [{"role": "listener", "state": "ready"}, {"role": "text", "state": "ready"}]


class Machine:
    """One machine's supervisor, record and broker, and the pages that tell of them."""

    def __init__(self, settings: Settings) -> None:
        self.processes: list[dict[str, Any]] = LISTENING
        self.asked = 0
        self.record, self.broker = (
            redis.Redis.from_url(url.get_secret_value()) for url in (settings.redis_url, settings.broker_url)
        )
        self.name = keys.listening(machine_name(settings.data_dir))
        self.record.set(self.name, 1)
        transport = httpx.ASGITransport(application(settings))
        self.pages = httpx.AsyncClient(transport=transport, base_url="http://switchyard")

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """As the supervisor answers `ps`."""
        self.asked += 1
        return {"started": True, "processes": self.processes}

    async def missing(self) -> list[str]:
        answer = await self.pages.get("/readyz")
        body = answer.json()
        assert (answer.status_code, body["ready"]) in ((200, True), (503, False))
        return list(body.get("missing", []))

    async def comes_to_say(self, *missing: str) -> None:
        ends_at = time.monotonic() + 20
        while (said := await self.missing()) != list(missing) and time.monotonic() < ends_at:
            await asyncio.sleep(0.05)
        assert said == list(missing)


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("web")
    with valkey(folder / "record") as record, valkey(folder / "broker") as broker:
        yield {"redis_url": SecretStr(record), "broker_url": SecretStr(broker)}


@pytest.fixture
async def machine(urls: dict[str, Any], tmp_path: Path) -> AsyncIterator[Machine]:
    one = Machine(Settings(data_dir=tmp_path, **urls, _env_file=None))
    async with serve(tmp_path, one.answer), one.pages:
        yield one
    one.record.close()
    one.broker.close()


@contextmanager
def stopped(server: "redis.Redis") -> Iterator[None]:
    """A server that takes connections and answers nobody."""
    pid = int(server.info()["process_id"])
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_all_that_answer_are_ready(machine: Machine) -> None:
    assert await machine.missing() == []


@pytest.mark.parametrize("server", ["record", "broker"])
async def test_a_server_that_hangs_is_missing_until_it_answers_again(machine: Machine, server: str) -> None:
    """Its process lives, so the supervisor sees nothing; no message can be taken all the same."""
    with stopped(getattr(machine, server)):
        await machine.comes_to_say(f"{server}: does not answer")
        assert (await machine.pages.get("/healthz")).status_code == 200

    await machine.comes_to_say()


async def test_a_broker_of_another_kind_is_asked_too(urls: dict[str, Any], tmp_path: Path) -> None:
    nobody = SecretStr(f"amqp://guest:guest@127.0.0.1:{free_port()}//")
    settings = Settings(data_dir=tmp_path, redis_url=urls["redis_url"], broker_url=nobody, _env_file=None)

    pages = httpx.AsyncClient(transport=httpx.ASGITransport(application(settings)), base_url="http://switchyard")
    async with pages:
        answer = await pages.get("/readyz")

    assert answer.status_code == 503
    assert answer.json()["missing"] == ["supervisor: does not answer", "broker: does not answer"]


async def test_a_listener_that_is_cut_off_from_the_platform_is_missing(machine: Machine) -> None:
    machine.record.delete(machine.name)

    assert await machine.missing() == ["listener: has had no connection to the platform for 10 s"]


async def test_another_machine_that_is_connected_does_not_speak_for_this_one(
    machine: Machine, urls: dict[str, Any], tmp_path: Path
) -> None:
    """Two machines share a record; a load balancer asks each of them about itself."""
    other = Machine(Settings(data_dir=tmp_path / "other", **urls, _env_file=None))
    machine.record.delete(machine.name)

    async with serve(tmp_path / "other", other.answer), other.pages:
        assert await other.missing() == []
        assert await machine.missing() == ["listener: has had no connection to the platform for 10 s"]
    other.record.close()
    other.broker.close()


def test_all_processes_of_a_machine_agree_on_its_name(tmp_path: Path) -> None:
    """Those that start together ask at the same time; a restart changes nothing."""
    with ThreadPoolExecutor(16) as pool:
        names = list(pool.map(machine_name, [tmp_path / "new"] * 64))

    assert len({*names, machine_name(tmp_path / "new")}) == 1
    assert machine_name(tmp_path / "other") not in names
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["machine"]


async def test_a_machine_without_a_listener_needs_no_connection(machine: Machine) -> None:
    machine.record.delete(machine.name)
    machine.processes = LISTENING[1:]

    assert await machine.missing() == []


async def test_a_record_without_memory_is_no_place_for_new_messages_until_there_is_room(machine: Machine) -> None:
    machine.record.config_set("maxmemory", "1")
    try:
        (line,) = await machine.missing()
    finally:
        machine.record.config_set("maxmemory", "0")

    assert "the record's memory is full" in line
    assert "SWITCHYARD_RECORD_MEMORY_MB" in line
    await machine.comes_to_say()


async def test_a_full_house_is_ready_and_says_that_it_is_full(machine: Machine) -> None:
    """Every message is answered, if only by a notice: another machine would have nothing better to say."""
    name = keys.waiting("inbox", 0)
    machine.record.set(name, 10_000)
    try:
        answer = await machine.pages.get("/readyz")
    finally:
        machine.record.delete(name)

    assert (answer.status_code, answer.json()["ready"]) == (200, True)
    (line,) = answer.json()["full"]
    assert "10000 messages wait, 10000 may" in line
    assert "SWITCHYARD_WAITING_LIMIT" in line


def test_a_record_whose_disk_is_full_is_no_place_for_new_messages(tmp_path: Path) -> None:
    """The embedded one, running or not; as if more than there is had to stay free."""
    server = prepare("redis", tmp_path)
    enough = Settings(data_dir=tmp_path, redis_url=server.url, disk_free_mb=0, disk_free_percent=0, _env_file=None)
    greedy = enough.model_copy(update={"disk_free_mb": 2**32})

    well, full = (
        missing_of(supervisor=READY, record=True, broker=True, room=shortages(one, patience_s=0.1))
        for one in (enough, greedy)
    )

    assert well == []
    assert "the record's disk is full" in full[0]
    assert str(server.folder) in full[0]


async def test_an_answer_is_kept_for_a_while(machine: Machine) -> None:
    """Many who poll must not become a load."""
    for _ in range(50):
        await machine.missing()

    assert machine.asked < 50
