"""The embedded servers: how they are set, where they listen, and who can read their passwords."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from pydantic import SecretStr
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.disk import MB
from app.servers import EmbeddedServer, ServerRole, answers, end_leftovers, last_known, prepare, resolved
from app.settings import Settings
from tests.app.supervised import eventually, is_gone
from tests.valkey import wait_for_server

DURABLE = {
    "appendonly": "yes",
    "appendfsync": "always",
    "save": "",
    "maxmemory": "67108864",
    "maxmemory-policy": "noeviction",
}


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A folder whose name would break a configuration that is not quoted."""
    return tmp_path / 'a "data" folder'


@pytest.fixture
def started() -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Servers that a test started; ended after it."""
    running: list[subprocess.Popen[bytes]] = []
    yield running
    for process in running:
        process.kill()
        process.wait()


def start(server: EmbeddedServer, started: list["subprocess.Popen[bytes]"]) -> "subprocess.Popen[bytes]":
    started.append(subprocess.Popen(server.command, stdout=subprocess.DEVNULL))
    wait_for_server(server.url.get_secret_value())
    return started[-1]


@pytest.mark.parametrize(("role", "expected"), [("redis", DURABLE), ("broker", DURABLE | {"appendonly": "no"})])
def test_the_record_keeps_every_write_and_the_broker_none(
    data_dir: Path, started: list["subprocess.Popen[bytes]"], role: ServerRole, expected: dict[str, str]
) -> None:
    server = prepare(role, data_dir, memory_bytes=64 * MB)

    start(server, started)
    with redis.Redis.from_url(server.url.get_secret_value(), decode_responses=True) as client:
        found = client.config_get(*expected)
        client.set("key", "value")

    assert (found | {"appendfsync": "always"} if role == "broker" else found) == expected
    assert (server.folder / "appendonlydir").exists() == (role == "redis")


def test_passwords_are_for_their_owner_alone(data_dir: Path, started: list["subprocess.Popen[bytes]"]) -> None:
    server = prepare("redis", data_dir)
    process = start(server, started)

    readable_by_others = [path for path in server.folder.glob("*.conf") if path.stat().st_mode & 0o077]
    readable_by_others += [server.folder] if server.folder.stat().st_mode & 0o077 else []
    command = Path(f"/proc/{process.pid}/cmdline").read_text()

    assert not readable_by_others
    assert (server.folder / "password").stat().st_mode & 0o777 == 0o600
    assert server.password not in command + repr(server)
    with (
        redis.Redis(port=server.port, retry=Retry(NoBackoff(), 0)) as stranger,
        pytest.raises(redis.AuthenticationError),
    ):
        stranger.ping()


def test_port_and_password_stay_from_one_start_to_the_next(data_dir: Path) -> None:
    first = prepare("redis", data_dir)

    again = prepare("redis", data_dir)

    assert again == first == last_known("redis", data_dir)
    assert prepare("broker", data_dir).password != first.password


def test_the_port_is_none_that_an_outgoing_connection_can_be_given(data_dir: Path) -> None:
    """A client that reconnects in the server's absence would take its port, and it could never come back."""
    lowest_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])

    port = prepare("redis", data_dir).port

    assert port < lowest_outgoing or lowest_outgoing <= 11_000


def test_a_taken_port_is_exchanged(data_dir: Path, started: list["subprocess.Popen[bytes]"]) -> None:
    first = prepare("redis", data_dir)
    start(first, started)

    again = prepare("redis", data_dir)

    assert again.port != first.port
    assert again.password == first.password


async def test_a_server_is_ready_when_it_answers_us(data_dir: Path, started: list["subprocess.Popen[bytes]"]) -> None:
    server = prepare("broker", data_dir)

    before = await answers(server)
    start(server, started)
    after = await answers(server)
    stranger = await answers(EmbeddedServer("broker", server.folder, server.port, "wrong"))

    assert (before, after, stranger) == (False, True, False)


def test_only_a_server_on_the_same_folder_is_a_leftover(
    data_dir: Path, tmp_path: Path, started: list["subprocess.Popen[bytes]"]
) -> None:
    mine, other = prepare("redis", data_dir), prepare("redis", tmp_path / "other")
    leftover, neighbour = start(mine, started), start(other, started)

    end_leftovers(mine)

    eventually(lambda: is_gone(leftover.pid))
    assert not is_gone(neighbour.pid)


def test_commands_beside_the_supervisor_find_the_embedded_servers(data_dir: Path) -> None:
    record = prepare("redis", data_dir)
    settings = Settings(data_dir=data_dir, broker_url=SecretStr("amqp://elsewhere"), _env_file=None)

    found = resolved(settings)

    assert found.redis_url == record.url
    assert found.broker_url.get_secret_value() == "amqp://elsewhere"
    assert resolved(Settings(data_dir=data_dir / "nowhere", _env_file=None)).redis_url.get_secret_value() == ""
