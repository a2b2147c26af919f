"""A RabbitMQ node of a run's own: private ports, folder, name and user. The machine's own node is never touched.

The node is Debian's `rabbitmq-server` without its wrapper, as whoever runs this, on 127.0.0.1 alone. Its epmd (which
tells Erlang nodes where the others listen) is a process of ours too. The kernel kills both when the thread that
started them ends, however it ends: start a node from a thread that lives as long as the run.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import amqp

from app.errors import Permanent
from app.servers import lasting_port

START_LIMIT_S, CONTROL_LIMIT_S = 100.0, 60.0
POLL_S = 0.1
_SCRIPTS = Path("/usr/lib/rabbitmq/bin")  # Debian's wrapper in /usr/sbin would change the user and the folders
_NODE = "switchyard@localhost"  # its epmd knows no other
_USER, _VHOST = "switchyard", "switchyard"
_CONFIGURATION = """\
listeners.tcp.1 = 127.0.0.1:{port}
default_user = {user}
default_pass = {password}
default_vhost = {vhost}
log.file = {folder}/node.log
log.console = false
vm_memory_high_watermark.absolute = 1GB
disk_free_limit.absolute = 20MB
raft.wal_max_size_bytes = 16777216
"""
_SMALL = "+S 2:2 +SDio 4 +A 4"  # schedulers and threads for two cores


class RabbitFailed(Permanent):
    """There is no RabbitMQ to run on; the text says why, and the mend."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node lives: the same for all its lives."""

    folder: Path
    port: int
    epmd_port: int
    password: str = field(repr=False)

    @property
    def environment(self) -> dict[str, str]:
        """All that the node and its tools see of the world; nothing of ours."""
        return {
            "PATH": os.pathsep.join(os.get_exec_path()),
            "HOME": str(self.folder),  # of the cookie
            "LANG": "C.UTF-8",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self.epmd_port),
            "ERL_AFLAGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "ERL_CRASH_DUMP": str(self.folder / "erl_crash.dump"),
            "RABBITMQ_ALLOW_INPUT": "1",  # the script becomes the node: its pid is the node's
            "RABBITMQ_NODENAME": _NODE,
            "RABBITMQ_DIST_PORT": str(self.port + 1),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "none.conf"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "none.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(self.folder / "generated"),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.folder),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": _SMALL,
        }


class RabbitMQ:
    """A node that runs, or was killed and can be started again."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"amqp://{_USER}:{place.password}@127.0.0.1:{place.port}/{_VHOST}"

    @property
    def pid(self) -> int:
        """The node's process. Raises RabbitFailed while there is none."""
        if self._process is None:
            raise RabbitFailed("this RabbitMQ does not run")
        return self._process.pid

    def kill(self) -> None:
        """`kill -9`, and wait until it is gone. Its durable queues stay on its disk."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)  # with the small processes that Erlang keeps beside it
            self._process.wait()
            self._process = None

    def start(self) -> None:
        """Start it, on the same folder and port, and wait until it takes connections.

        Raises:
            RabbitFailed: it did not, with the end of what it said.
        """
        with (self._place.folder / "console.log").open("wb") as console:
            self._process = _ended_with_us([str(_script("rabbitmq-server")), "-noinput"], self._place, console.fileno())
        end = time.monotonic() + START_LIMIT_S
        while not self._takes_connections():
            if self._process.poll() is not None or time.monotonic() > end:
                said = (self._place.folder / "console.log").read_text(errors="replace")[-2000:]
                raise RabbitFailed(f"RabbitMQ did not start:\n{said}")
            time.sleep(POLL_S)

    def settle(self) -> None:
        """Have it write down which queues it has; by itself it does so a second after the last was declared.

        RabbitMQ 3.10 does not bring a quorum queue back if it was killed before that.
        """
        self.control("eval", "[dets:sync(Table) || Table <- dets:all()].")

    def control(self, *words: str) -> str:
        """What `rabbitmqctl` answers to these words.

        Raises:
            RabbitFailed: it refused.
        """
        command = [str(_script("rabbitmqctl")), "--quiet", *words]
        ran = subprocess.run(
            command, env=self._place.environment, capture_output=True, text=True, timeout=CONTROL_LIMIT_S, check=False
        )
        if ran.returncode:
            raise RabbitFailed(f"rabbitmqctl {' '.join(words)}: {ran.stderr[-500:]}")
        return ran.stdout

    @contextmanager
    def alarm(self) -> Iterator[None]:
        """A memory alarm: while it lasts, the node reads nothing from a connection that publishes."""
        self.control("set_vm_memory_high_watermark", "absolute", "1")
        try:
            yield
        finally:
            self.control("set_vm_memory_high_watermark", "absolute", "1GB")

    def _takes_connections(self) -> bool:
        host = f"127.0.0.1:{self._place.port}"
        try:
            with amqp.Connection(host, _USER, self._place.password, virtual_host=_VHOST, connect_timeout=5):
                return True
        except (OSError, amqp.AMQPError):
            return False


@contextmanager
def rabbitmq(folder: Path) -> Iterator[RabbitMQ]:
    """A running node in this folder, which is made for it; killed in the end, with all that it keeps.

    Raises:
        RabbitFailed: it is not installed, or does not start.
    """
    lacks = missing()
    if lacks:
        raise RabbitFailed(lacks)
    place = _prepared(folder)
    with (folder / "epmd.log").open("wb") as log:
        epmd = _ended_with_us(["epmd", "-address", "127.0.0.1", "-port", str(place.epmd_port)], place, log.fileno())
    node = RabbitMQ(place)
    try:
        _until_listening(place.epmd_port)
        node.start()
        yield node
    finally:
        node.kill()
        epmd.kill()
        epmd.wait()


def missing() -> str:
    """What this machine lacks for a node, with the mend; empty if nothing."""
    if _script("rabbitmq-server").exists() and shutil.which("epmd"):
        return ""
    return "rabbitmq-server is not installed: apt install rabbitmq-server"


def _prepared(folder: Path) -> Place:
    """A place with its configuration: a new name, new ports, a new password, and a cookie that only its owner reads."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    place = Place(folder.resolve(), _two_ports(), lasting_port(), secrets.token_urlsafe(24))
    values = {"port": place.port, "user": _USER, "password": place.password, "vhost": _VHOST, "folder": place.folder}
    for name, text in (
        ("rabbitmq.conf", _CONFIGURATION.format(**values)),
        ("enabled_plugins", "[].\n"),
        (".erlang.cookie", secrets.token_hex(20)),
    ):
        (folder / name).touch(mode=0o600)
        (folder / name).write_text(text)
    (folder / ".erlang.cookie").chmod(0o400)
    return place


def _two_ports() -> int:
    """The first of two free ports beside each other: one for clients, one for rabbitmqctl."""
    while True:
        port = lasting_port()
        with socket.socket() as probe, contextlib.suppress(OSError, OverflowError):
            probe.bind(("127.0.0.1", port + 1))
            return port


def _ended_with_us(command: list[str], place: Place, output: int) -> "subprocess.Popen[bytes]":
    """Start a process that the kernel kills when this thread ends, in a process group of its own."""
    return subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "--", *command],
        env=place.environment,
        cwd=place.folder,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        process_group=0,
    )


def _until_listening(port: int) -> None:
    end = time.monotonic() + START_LIMIT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return
        except OSError as exc:
            if time.monotonic() > end:
                raise RabbitFailed("epmd did not start") from exc
            time.sleep(POLL_S / 2)


def _script(name: str) -> Path:
    """Where RabbitMQ's own scripts are: Debian's place, else beside the `rabbitmq-server` of the path."""
    if (_SCRIPTS / name).exists():
        return _SCRIPTS / name
    return Path(shutil.which("rabbitmq-server") or _SCRIPTS / "none").resolve().with_name(name)
