"""What is left when the supervisor, its warden or a server is killed with signal 9."""

import fcntl
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from app.servers import last_known
from app.warden import take_lock
from tests.app.supervised import Supervised, eventually, is_gone

Start = Callable[..., Supervised]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a supervisor on this test's folder; several times, if the test kills it."""
    started: list[Supervised] = []

    def start_one(*arguments: str, **settings: str) -> Supervised:
        started.append(Supervised(tmp_path / "data", *arguments, settings=settings))
        return started[-1]

    yield start_one
    for one in started:
        one.kill()
    for one in started:
        one.end()


def test_the_next_supervisor_takes_over_after_a_kill(start: Start) -> None:
    """Nobody must clean up by hand: `switchyard up` again, and all that was stored is there."""
    first = start("text:stubborn").until_ready()
    pids = first.pids()
    with first.client("redis") as record:
        record.set("accepted", "before")

    first.kill()
    second = start().until_ready()

    assert all(map(is_gone, pids))  # also the one that does not listen to SIGTERM
    assert "the supervisor is gone" in second.log_of("text-1")  # which was left the time to hear it
    with second.client("redis") as record:
        assert record.get("accepted") == "before"


def test_the_lock_of_a_dead_supervisor_is_waited_for(tmp_path: Path) -> None:
    """Its warden holds it for the seconds in which it ends what is left; the person is told why nothing happens."""
    ended = subprocess.Popen(["/bin/true"])
    ended.wait()
    (tmp_path / "lock").write_text(f"{ended.pid}\n")
    held_by_the_warden = (tmp_path / "lock").open()
    fcntl.flock(held_by_the_warden, fcntl.LOCK_EX)
    said: list[str] = []

    def until_said(text: str) -> None:
        said.append(text)
        held_by_the_warden.close()

    ours = take_lock(tmp_path, wait_s=15, say=until_said)

    assert said == [f"waiting up to 15 s for the processes of the last supervisor (pid {ended.pid}) to end"]
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    os.close(ours)


def test_a_killed_supervisor_leaves_nothing_running(start: Start) -> None:
    """The servers end last, after all that write to them."""
    running = start().until_ready()
    pids = running.pids()

    running.kill()
    eventually(running.lock_is_free)

    assert all(map(is_gone, pids))


def test_servers_without_supervisor_and_warden_are_found_and_ended(start: Start) -> None:
    """Two servers on the same data would ruin it."""
    first = start().until_ready()
    servers = [first.pid("redis"), first.pid("broker")]
    with first.client("redis") as record:
        record.set("accepted", "before")

    first.process.send_signal(signal.SIGSTOP)  # so that it does not start another warden
    os.kill(first.warden(), signal.SIGKILL)
    first.kill()
    second = start().until_ready()

    assert all(map(is_gone, servers))
    with second.client("redis") as record:
        assert record.get("accepted") == "before"


def test_a_killed_warden_is_replaced_and_knows_everybody(start: Start) -> None:
    running = start().until_ready()
    pids, killed = running.pids(), running.warden()

    os.kill(killed, signal.SIGKILL)
    eventually(lambda: running.warden() not in (0, killed))
    running.kill()
    eventually(running.lock_is_free)

    assert all(map(is_gone, pids))


def test_a_second_supervisor_is_refused(start: Start) -> None:
    first = start().until_ready()
    port = last_known("redis", first.data_dir)

    second = start()

    assert second.process.wait(timeout=20) != 0
    assert f"pid {first.process.pid}" in second.complained
    assert last_known("redis", first.data_dir) == port  # and it has not touched the first one's servers
    assert set(first.ready("redis")) == {first.pid("redis")}


@pytest.mark.parametrize("role", ["redis", "broker"])
def test_a_killed_server_comes_back_where_it_was(start: Start, role: str) -> None:
    """Clients reconnect to the address that they have; only the record has something to keep."""
    running = start().until_ready()
    killed, others = running.pid(role), [one["pid"] for one in running.ps() if one["role"] != role]
    with running.client("redis" if role == "redis" else "broker") as client:
        for number in range(100):
            client.set(f"key{number}", "kept")

        os.kill(killed, signal.SIGKILL)
        eventually(lambda: running.ready(role) not in ([], [killed]))

        kept = _count(client)
    assert kept == (100 if role == "redis" else 0)
    assert [one["pid"] for one in running.ps() if one["role"] != role] == others


def _count(client: "redis.Redis") -> int:
    return int(client.dbsize())
