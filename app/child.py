"""One place for one process: what runs in it is started, watched, replaced when it dies, and drained when told so."""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

import structlog

from app.process import ALIVE_FD, READY_FD, REPLACE_ME, environment_of_child
from app.servers import EmbeddedServer, answers, end_leftovers, has_room

State = Literal["starting", "ready", "draining", "restarting"]

SOON_S = 10.0  # who dies sooner than this after its start may be dying of itself
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0
_READY_LIMIT_S = 300.0
_PROBE_S = 0.05
_ROOM_S = 1.0
_LOG_LIMIT_BYTES = 20 * 1024 * 1024

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What runs in the places of one role."""

    role: str
    command: Callable[[int], list[str]]  # the command line of place number n, counted from 1
    count: int = 1
    queue: str | None = None
    server: EmbeddedServer | None = None  # it is ready when it answers PING, not by a word of its own
    early: bool = False  # is started before the servers answer


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What all children of a supervisor share."""

    environment: Mapping[str, str] = field(repr=False)
    log_folder: Path
    alive_fd: int
    on_change: Callable[[], None]
    adopt: Callable[["Child"], None]  # a process was started: somebody must end it if we die


class Backoff:
    """How long to wait before the next start."""

    def __init__(self) -> None:
        self._next_s = 0.0

    def after(self, *, lived_s: float, replace: bool) -> float:
        """Seconds: none after a long life or a wish to be replaced, else 0, 0.5, 1, 2 and so on up to 30."""
        if replace:
            return 0.0
        if lived_s >= SOON_S:
            self._next_s = 0.0
        wait_s, self._next_s = self._next_s, min(max(2 * self._next_s, _FIRST_WAIT_S), _LONGEST_WAIT_S)
        return wait_s


class Child:
    """A place in which one process runs, and after its death the next one."""

    def __init__(self, spec: Spec, number: int, surroundings: Surroundings) -> None:
        self.spec, self.number = spec, number
        self.state: State = "starting"
        self.pidfd: int | None = None
        self.started_at = time.monotonic()
        self._around = surroundings
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = asyncio.Event()

    @property
    def name(self) -> str:
        """Role and number, as in the name of its log file."""
        return f"{self.spec.role}-{self.number}"

    @property
    def pid(self) -> int | None:
        """The process that runs here now; None between two."""
        return self._process.pid if self._process else None

    async def run(self) -> None:
        """Keep a process running here until `drain`, then return when it has ended."""
        backoff = Backoff()
        while not self._stopped.is_set():
            was_ready, status = await self._live()
            if self._stopped.is_set():
                return
            lived_s = time.monotonic() - self.started_at
            wait_s = backoff.after(lived_s=lived_s, replace=was_ready and status == REPLACE_ME)
            log.warning("process ended", process=self.name, status=status, lived_s=round(lived_s, 1), wait_s=wait_s)
            self._set_state("restarting")
            await self._pause(wait_s)
            await self._wait_for_room()

    def drain(self, grace_s: float) -> None:
        """Ask the process to finish and end, with SIGKILL after `grace_s`. No other is started."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        self._set_state("draining")
        self.signal(signal.SIGTERM)
        asyncio.get_running_loop().call_later(grace_s, self._kill)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process that runs here, if one does."""
        if self.pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)

    async def _live(self) -> tuple[bool, int]:
        """One life of a process: whether it was ever ready, and its exit status (-n: by signal n, 127: no start)."""
        self.started_at = time.monotonic()
        if self.state == "restarting" and self.spec.server:
            pass
        try:
            process, ready_fd = await self._start()
        except OSError as exc:
            log.error("process cannot be started", process=self.name, reason=str(exc))
            return False, 127
        with contextlib.ExitStack() as cleanup:
            cleanup.callback(os.close, ready_fd)
            ended = self._watch_end(process, cleanup)
            becoming = asyncio.create_task(self._become_ready(ready_fd))
            await ended
            becoming.cancel()
            status = process.wait()
            was_ready = becoming.done() and not becoming.cancelled() and becoming.result()
        return was_ready, status
