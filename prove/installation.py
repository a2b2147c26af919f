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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.control import ask
from app.errors import Permanent
from app.process import ALIVE_FD, environment_of_child
from sandbox.process import Sandbox

START_LIMIT_S, BACK_LIMIT_S = 120.0, 60.0
POLL_S = 0.05

Say = Callable[[str], None]


class RunFailed(Permanent):
    """The run could not be made, so it proves nothing."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What was done to a process, and how long until its role was whole again. Seconds."""

    what: str
    role: str
    pid: int
    away_s: float


class Installation:
    """A running installation."""

    def __init__(self, process: subprocess.Popen[str], data_dir: Path, web_port: int) -> None:
        self.process = process
        self.data_dir = data_dir
        self.web_port = web_port

    def processes(self, role: str = "") -> list[dict[str, Any]]:
        """What `switchyard ps` shows, of one role or of all."""
        found: list[dict[str, Any]] = ask(self.data_dir, {"do": "ps"})["processes"]
        return [one for one in found if role in ("", one["role"])]

    def scale(self, **pools: int) -> None:
        ask(self.data_dir, {"do": "scale", "pools": pools})

    def wait_until(self, condition: Callable[[], bool], what: str, limit_s: float = BACK_LIMIT_S) -> float:
        """Poll until a condition holds; how long it took. Raises RunFailed."""
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began > limit_s:
                raise RunFailed(f"{what}: not within {limit_s:.0f} s")
            time.sleep(POLL_S)
        return time.monotonic() - began

    def kill(self, role: str, chance: random.Random) -> Fault:
        """`kill -9` one process of a role, and wait until the role is whole again."""
        before = self.processes(role)
        victim = chance.choice(before)["pid"]
        os.kill(victim, signal.SIGKILL)

        def whole() -> bool:
            now = [one["state"] for one in self.processes(role) if one["pid"] != victim]
            return now == ["ready"] * len(before)

        return Fault("kill", role, victim, round(self.wait_until(whole, f"{role} comes back"), 2))

    def freeze(self, role: str, chance: random.Random, seconds: float) -> Fault:
        """Let one process sleep, and wake it up."""
        victim = chance.choice(self.processes(role))["pid"]
        os.kill(victim, signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            os.kill(victim, signal.SIGCONT)
        return Fault("freeze", role, victim, seconds)


@contextmanager
def installation(folder: Path, sandbox: Sandbox, settings: Mapping[str, str]) -> Iterator[Installation]:
    """A `switchyard up` on this platform, ready. It is ended by SIGTERM, and also when this process dies.

    Raises:
        RunFailed: it did not become ready; the end of its log is in the text.
    """
    data_dir, port = folder / "data", free_port()
    alive_fd, our_end = os.pipe()
    own = {"SWITCHYARD_DATA_DIR": str(data_dir), "SWITCHYARD_WEB_PORT": str(port), ALIVE_FD: str(alive_fd)}
    with (folder / "up.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "up"],
            env=environment_of_child({**own, **sandbox.environment(), **settings}),
            pass_fds=[alive_fd],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        _until_ready(process, folder / "up.log")
        yield Installation(process, data_dir, port)
    finally:
        process.terminate()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
        os.close(our_end)
        os.close(alive_fd)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _until_ready(process: subprocess.Popen[str], log: Path) -> None:
    """Wait for the line `ready`; a process that ends or says nothing is a failed run."""
    output = process.stdout
    if output is None or not select.select([output], [], [], START_LIMIT_S)[0] or output.readline().strip() != "ready":
        raise RunFailed(f"switchyard up did not become ready:\n{log.read_text()[-2000:]}")
