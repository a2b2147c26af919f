"""A whole installation of its own: `switchyard up` with private ports and folders, and the things done to it."""

import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.control import NotRunning, ask
from app.errors import Permanent
from app.process import ALIVE_FD, environment_of_child
from sandbox.process import Sandbox

START_LIMIT_S, BACK_LIMIT_S = 120.0, 60.0
POLL_S = 0.05

Say = Callable[[str], None]


class RunFailed(Permanent):
    """The run could not be made, so it proves nothing."""


class Installation:
    """A running installation."""

    def __init__(self, folder: Path, web_port: int, environment: Mapping[str, str], alive_fd: int) -> None:
        self.data_dir = folder / "data"
        self.web_port = web_port
        self._log = folder / "up.log"
        self._environment = environment
        self._alive_fd = alive_fd
        self.process = self._start()

    def processes(self, role: str = "") -> list[dict[str, Any]]:
        """What `switchyard ps` shows, of one role or of all; nothing while the supervisor does not answer."""
        try:
            found: list[dict[str, Any]] = ask(self.data_dir, {"do": "ps"})["processes"]
        except NotRunning:
            return []
        return [one for one in found if role in ("", one["role"])]

    def scale(self, **pools: int) -> None:
        ask(self.data_dir, {"do": "scale", "pools": pools})

    def wait_until(self, condition: Callable[[], bool], what: str, limit_s: float = BACK_LIMIT_S) -> float:
        """Poll until a condition holds; how long it took. Raises RunFailed."""
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began > limit_s:
                raise RunFailed(f"{what}: not within {limit_s:.0f} s; {self.last_words()}")
            time.sleep(POLL_S)
        return time.monotonic() - began

    def kill(self, role: str, chance: random.Random) -> int:
        """`kill -9` one process of a role, and wait until the role is whole again; the pid that it had."""
        victim: int = chance.choice(self.processes(role))["pid"]
        os.kill(victim, signal.SIGKILL)
        self.wait_until(lambda: self.whole_without(role, victim), f"{role} comes back")
        return victim

    def whole_without(self, role: str, victim: int) -> bool:
        """Whether every place of a role has a process that is ready, and none is the one that was killed."""
        now = self.processes(role)
        return bool(now) and all(one["state"] == "ready" and one["pid"] != victim for one in now)

    def kill_supervisor(self) -> None:
        """`kill -9` the supervisor, and start the next one on the same data; `until_ready` waits for it."""
        self.process.kill()
        self.process.wait()
        self._close_output()
        self.process = self._start()

    def until_ready(self) -> None:
        """Wait for the line `ready`. Raises RunFailed; the end of the log is in the text."""
        output = self.process.stdout
        readable = output is not None and select.select([output], [], [], START_LIMIT_S)[0]
        if output is None or not readable or output.readline().strip() != "ready":
            raise RunFailed(f"switchyard up did not become ready; {self.last_words()}")

    def last_words(self) -> str:
        """The end of the supervisor's log."""
        return f"the end of its log:\n{self._log.read_text()[-2000:]}"

    def end(self) -> None:
        """SIGTERM, and wait for the end."""
        self.process.terminate()
        self.process.wait()
        self._close_output()

    def _start(self) -> subprocess.Popen[str]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "app.cli", "up"],
                env=environment_of_child(self._environment),
                pass_fds=[self._alive_fd],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def _close_output(self) -> None:
        if self.process.stdout is not None:
            self.process.stdout.close()


@contextmanager
def installation(folder: Path, sandbox: Sandbox, settings: Mapping[str, str]) -> Iterator[Installation]:
    """A `switchyard up` on this platform, ready. It is ended by SIGTERM, and also when this process dies.

    Raises:
        RunFailed: it did not become ready; the end of its log is in the text.
    """
    port = free_port()
    alive_fd, our_end = os.pipe()
    own = {"SWITCHYARD_DATA_DIR": str(folder / "data"), "SWITCHYARD_WEB_PORT": str(port), ALIVE_FD: str(alive_fd)}
    house = Installation(folder, port, {**own, **sandbox.environment(), **settings}, alive_fd)
    try:
        house.until_ready()
        yield house
    finally:
        house.end()
        os.close(our_end)
        os.close(alive_fd)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
