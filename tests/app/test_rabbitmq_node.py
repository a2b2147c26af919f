"""The private RabbitMQ node of tests and of `switchyard prove`: nobody else's, and never left behind."""

import contextlib
import signal
import subprocess
import sys
from pathlib import Path

import amqp
import pytest

from prove.rabbitmq import RabbitFailed, RabbitMQ
from tests.app.supervised import eventually

STARTER = """
import sys, time
from pathlib import Path
from prove.rabbitmq import rabbitmq
with rabbitmq(Path(sys.argv[1])) as node:
    print(node.pid, flush=True)
    time.sleep(600)
"""


def connection(url: str, password: str = "") -> amqp.Connection:
    account, _, place = url.removeprefix("amqp://").partition("@")
    user, _, own = account.partition(":")
    host, _, vhost = place.partition("/")
    connected = amqp.Connection(host, user, password or own, virtual_host=vhost, connect_timeout=10)
    connected.connect()
    return connected


def listening(pid: int) -> set[str]:
    """Addresses (hexadecimal, of this machine's order) on which a process listens."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            inodes.add(str(descriptor.readlink()).removeprefix("socket:[").rstrip("]"))
    rows = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/{pid}/net/{name}").read_text().split("\n")
    ]
    return {row[1].partition(":")[0] for row in rows if len(row) > 9 and row[3] == "0A" and row[9] in inodes}


def test_it_listens_on_this_machine_alone(rabbit: RabbitMQ) -> None:
    assert listening(rabbit.pid) == {"0100007F"}


def test_it_has_one_user_with_a_password_of_its_own(rabbit: RabbitMQ) -> None:
    assert rabbit.control("list_users").split("\n")[1].split("\t")[0] == "switchyard"
    assert "guest" not in rabbit.control("list_users")
    with pytest.raises(amqp.AccessRefused):
        connection(rabbit.url, "guest")


def test_after_a_kill_its_durable_queues_are_there_on_the_same_address(rabbit: RabbitMQ) -> None:
    first, url = rabbit.pid, rabbit.url
    with connection(url) as before:
        arguments = {"x-queue-type": "quorum"}
        before.channel().queue_declare("kept", durable=True, auto_delete=False, arguments=arguments)
    rabbit.settle()

    rabbit.kill()
    with pytest.raises(RabbitFailed, match="does not run"):
        _ = rabbit.pid
    rabbit.start()

    assert rabbit.pid != first
    assert rabbit.url == url
    with connection(url) as after:
        found = after.channel().queue_declare("kept", passive=True)
        assert found is not None
        assert found[:2] == ("kept", 0)


@pytest.mark.usefixtures("rabbit")  # so that it is skipped where there is none
def test_a_node_does_not_outlive_a_killed_starter(tmp_path: Path) -> None:
    """A run that is killed leaves nothing behind: no node, no epmd, nothing that Erlang keeps beside it."""
    starter = subprocess.Popen([sys.executable, "-c", STARTER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    pid = int(starter.stdout.readline())
    here = processes_in(tmp_path)

    starter.send_signal(signal.SIGKILL)
    starter.wait()
    starter.stdout.close()

    assert pid in here
    assert len(here) > 1
    eventually(lambda: not processes_in(tmp_path))


def processes_in(folder: Path) -> list[int]:
    """Processes whose HOME is this folder, zombies aside."""
    found, mark = [], f"HOME={folder}".encode()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:  # it ended meanwhile, or is not ours
            continue
    return found
