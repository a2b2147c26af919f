"""How much of the embedded record's disk stays free, and that the listener minds it."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.disk import MB, Disk, DiskGuard, Reserve
from app.errors import StoreFull
from app.servers import EmbeddedServer, disk_of_record, last_known, prepare
from app.settings import Settings
from sandbox.client import SandboxClient
from sandbox.process import Sandbox, running_sandbox
from tests.app.supervised import environment, eventually
from tests.valkey import free_port, wait_for_server

LIMIT_S = 60.0


@pytest.mark.parametrize(
    ("size_mb", "stays_free_mb"), [(1_000, 200), (4_000, 200), (10_000, 500)], ids=["small", "at the edge", "large"]
)
def test_less_than_200_mb_or_5_percent_is_too_little(size_mb: int, stays_free_mb: int) -> None:
    assert Reserve().of(size_mb * MB) == stays_free_mb * MB


def test_only_the_disk_of_the_embedded_record_is_ours_to_see(tmp_path: Path) -> None:
    """The disk of another server may be on another machine."""
    embedded = prepare("redis", tmp_path)
    settings = Settings(data_dir=tmp_path, disk_free_mb=7, disk_free_percent=3, _env_file=None)

    own, other = (settings.model_copy(update={"redis_url": url}) for url in (embedded.url, settings.broker_url))

    assert disk_of_record(own) == Disk(embedded.folder, Reserve(7 * MB, 0.03))
    assert disk_of_record(other) is None


async def test_the_guard_looks_once_a_second_and_refuses_as_long_as_it_must(tmp_path: Path) -> None:
    now, folder = [0.0], tmp_path / "mounted later"
    guard = DiskGuard(Disk(folder, Reserve(0, 0.0)), clock=lambda: now[0])

    with pytest.raises(StoreFull, match="cannot be asked"):
        await guard.require_room()
    folder.mkdir()
    now[0] = 0.9
    with pytest.raises(StoreFull):
        await guard.require_room()
    now[0] = 1.0
    await guard.require_room()


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with running_sandbox() as sandbox:
        yield sandbox


def test_the_listener_acknowledges_nothing_while_the_disk_is_short(tmp_path: Path, sandbox: Sandbox) -> None:
    """As if more than there is had to stay free. What it does when there is room again stands in tests/failure."""
    server = prepare("redis", tmp_path)
    log = tmp_path / "listener.log"
    with (
        valkey_on(server),
        SandboxClient(sandbox.url) as platform,
        listener(sandbox, tmp_path, log, stays_free_mb=2**32),
    ):
        eventually(platform.connections, within_s=LIMIT_S)
        platform.send_text("too much", sender="ann")
        eventually(lambda: "the record is full: frames are kept" in log.read_text(), within_s=LIMIT_S)

        assert platform.log(0, "acked") == []


@contextmanager
def valkey_on(server: EmbeddedServer) -> Iterator[None]:
    """The embedded server as its supervisor starts it."""
    process = subprocess.Popen(server.command, stdout=subprocess.DEVNULL)
    try:
        wait_for_server(server.url.get_secret_value())
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def listener(sandbox: Sandbox, data_dir: Path, log: Path, *, stays_free_mb: int) -> Iterator[None]:
    """The listener as its supervisor starts it, on an embedded record; a wake-up finds no broker."""
    record = last_known("redis", data_dir)
    assert record
    named = {
        "SWITCHYARD_REDIS_URL": record.url.get_secret_value(),
        "SWITCHYARD_BROKER_URL": f"redis://127.0.0.1:{free_port()}/0",
        "SWITCHYARD_DATA_DIR": str(data_dir),
        "SWITCHYARD_DISK_FREE_MB": str(stays_free_mb),
    }
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "run", "listener"],
            env=environment(**sandbox.environment(), **named),
            stderr=output,
        )
    try:
        yield
    finally:
        process.kill()  # SIGTERM would give it five seconds for what it could not store
        process.wait()
