"""A supervisor as its own process, and what a test asks about it."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import redis

from app.control import NotRunning, ask
from app.servers import ServerRole, end_leftovers, last_known

ROOT = Path(__file__).parents[2]
CREDENTIALS = {"DINGTALK_CLIENT_ID": "dingsample0001", "DINGTALK_CLIENT_SECRET": "a-secret-of-the-app"}


def eventually(condition: Callable[[], Any], *, within_s: float = 60.0) -> None:
    """Poll until the condition holds; fail when it does not in time."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.02)


def environment(**more: str) -> dict[str, str]:
    """The tests' environment without any of our settings, and `more`; this machine's disk is good enough for a test."""
    ours, enough = ("SWITCHYARD_", "DINGTALK_"), {"SWITCHYARD_DISK_FREE_PERCENT": "0"}
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | enough | more


def switchyard(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run one command of the command line to its end, in an empty folder."""
    folder.mkdir(parents=True, exist_ok=True)
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *arguments],
        cwd=folder,
        env=environment(PYTHONPATH=str(ROOT), **more),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def is_gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has collected yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


class Supervised:
    """A supervisor that runs on a data folder of this test."""

    def __init__(self, data_dir: Path, *arguments: str, settings: Mapping[str, str] | None = None) -> None:
        self.data_dir = data_dir
        data_dir.mkdir(parents=True, exist_ok=True)
        self._output = data_dir.with_suffix(".out")
        with self._output.open("wb") as output, data_dir.with_suffix(".err").open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.app.programs.supervisor", *arguments],
                cwd=ROOT,
                env=environment(SWITCHYARD_DATA_DIR=str(data_dir), **CREDENTIALS, **(settings or {})),
                stdout=output,
                stderr=errors,
            )

    @property
    def said(self) -> str:
        """What it printed on its standard output."""
        return self._output.read_text()

    @property
    def complained(self) -> str:
        """What it and its predecessors on this folder logged."""
        return self.data_dir.with_suffix(".err").read_text()

    def until_ready(self) -> "Supervised":
        eventually(lambda: self.said or self.process.poll() is not None)
        assert self.said == "ready\n", self.complained
        return self

    def ps(self, role: str = "") -> list[dict[str, Any]]:
        processes: list[dict[str, Any]] = ask(self.data_dir, {"do": "ps"})["processes"]
        return [one for one in processes if one["role"] == role or not role]

    def pid(self, role: str) -> int:
        """The process of a role that has one."""
        (one,) = self.ps(role)
        return int(one["pid"])

    def pids(self) -> list[int]:
        return [one["pid"] for one in self.ps()]

    def ready(self, role: str) -> list[int]:
        """The pids of a role's processes that are ready."""
        return [one["pid"] for one in self.ps(role) if one["state"] == "ready"]

    def warden(self) -> int:
        """The pid of the warden; 0 between two."""
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == self.process.pid and b"app.warden" in (entry / "cmdline").read_bytes():
                    return int(entry.name)
            except OSError:
                continue  # it ended while we looked
        return 0

    def client(self, role: ServerRole) -> "redis.Redis":
        server = last_known(role, self.data_dir)
        assert server
        return redis.Redis.from_url(server.url.get_secret_value(), decode_responses=True)

    def log_of(self, process: str) -> str:
        return (self.data_dir / "logs" / f"{process}.log").read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)

    def end(self) -> None:
        """Leave nothing running, whatever the test did."""
        self.kill()
        eventually(self.lock_is_free)
        roles: tuple[ServerRole, ...] = ("redis", "broker")
        for server in filter(None, (last_known(role, self.data_dir) for role in roles)):
            end_leftovers(server)

    def lock_is_free(self) -> bool:
        with (self.data_dir / "lock").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    def answers(self) -> bool:
        try:
            return bool(json.dumps(self.ps()))
        except NotRunning:
            return False
