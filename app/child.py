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
from app.servers import EmbeddedServer, answers, clear_unfinished, end_leftovers, has_room

State = Literal["starting", "ready", "draining", "restarting"]

SOON_S = 10.0  # who dies sooner than this after its start may be dying of itself
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0
_LONGEST_WAIT_AFTER_WORK_S = 1.0
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
    overlaps: bool = False  # at a restart the next process is ready before this one goes


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What all children of a supervisor share."""

    environment: Mapping[str, str] = field(repr=False)
    log_folder: Path
    alive_fd: int
    on_change: Callable[[], None]
    adopt: Callable[["Child"], None]  # a process was started: somebody must end it if we die
    complain_after_s: float = 30.0  # that a process is not ready
    complain_again_s: float = 300.0


class Backoff:
    """How long to wait before the next start."""

    def __init__(self) -> None:
        self._next_s = 0.0

    def after(self, *, lived_s: float, was_ready: bool, replace: bool) -> float:
        """Seconds: none after a long life or a wish to be replaced, else 0, 0.5, 1, 2 and so on up to 30.

        Up to 1 for who was ready: it can start, others wait for it, and something else may have killed it.
        """
        if replace:
            return 0.0
        if lived_s >= SOON_S:
            self._next_s = 0.0
        longest_s = _LONGEST_WAIT_AFTER_WORK_S if was_ready else _LONGEST_WAIT_S
        wait_s, self._next_s = min(self._next_s, longest_s), min(max(2 * self._next_s, _FIRST_WAIT_S), longest_s)
        return wait_s


class Child:
    """A place in which one process runs, and after its death the next one."""

    def __init__(self, spec: Spec, number: int, surroundings: Surroundings) -> None:
        self.spec, self.number = spec, number
        self.state: State = "starting"
        self.pidfd: int | None = None
        self.started_at = time.monotonic()
        self.boot_s = 0.0  # from the last start to ready
        self._around = surroundings
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = asyncio.Event()
        self._was_ready = False
        self._told_no_room = False
        self._replacing = False
        self._complained_at = float("-inf")

    @property
    def name(self) -> str:
        """Role and number, as in the name of its log file."""
        return f"{self.spec.role}-{self.number}"

    @property
    def _log_file(self) -> Path:
        return self._around.log_folder / f"{self.name}.log"

    @property
    def pid(self) -> int | None:
        """The process that runs here now; None between two."""
        return self._process.pid if self._process else None

    @property
    def leaves(self) -> bool:
        """Whether the place is closed: what runs here is the last."""
        return self._stopped.is_set()

    async def run(self) -> None:
        """Keep a process running here until `drain`; return when the last one has ended."""
        backoff = Backoff()
        while not self._stopped.is_set():
            if not await self._has_room():
                continue
            status = await self._live()
            if self._stopped.is_set():
                break
            self._set_state("restarting")
            lived_s = time.monotonic() - self.started_at
            replace = self._replacing or (self._was_ready and status == REPLACE_ME)
            self._replacing = False
            wait_s = backoff.after(lived_s=lived_s, was_ready=self._was_ready, replace=replace)
            log.warning("process ended", process=self.name, status=status, lived_s=round(lived_s, 1), wait_s=wait_s)
            await self._pause(wait_s)

    def drain(self, grace_s: float) -> None:
        """Ask the process to finish and end, with SIGKILL after `grace_s`. No other is started here."""
        if not self._stopped.is_set():
            self._stopped.set()
            self._set_state("draining")
            self._signal(signal.SIGTERM)
        asyncio.get_running_loop().call_later(max(grace_s, 0.0), self._signal, signal.SIGKILL)

    def replace(self, grace_s: float) -> None:
        """Ask the process to finish and end, with SIGKILL after `grace_s`; the next one starts here at once."""
        if self.state == "ready":
            self._set_state("draining")
            self._replacing = True
            pid = self.pid
            self._signal(signal.SIGTERM)
            asyncio.get_running_loop().call_later(grace_s, self._kill_if_still, pid)

    def tell(self, what: signal.Signals) -> None:
        """Send a signal that ends nothing."""
        self._signal(what)

    def rss_mb(self) -> float:
        """Memory of the process, in megabytes; 0 between two lives."""
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except (FileNotFoundError, ProcessLookupError):
            return 0.0
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    async def _live(self) -> int:
        """One life of a process; its exit status (-n: ended by signal n; 127: could not be started)."""
        self._was_ready, self.started_at = False, time.monotonic()
        try:
            process, word_fd = self._start()
        except OSError as exc:
            log.error("process cannot be started", process=self.name, reason=str(exc))
            return 127
        self._process, self.pidfd = process, os.pidfd_open(process.pid)
        self._around.adopt(self)
        becoming = asyncio.create_task(self._become_ready(word_fd))
        complaining = asyncio.create_task(self._complain())
        try:
            await readable(self.pidfd)
        finally:
            complaining.cancel()
            becoming.cancel()
            await asyncio.wait([becoming, complaining])
            os.close(word_fd)
            os.close(self.pidfd)
            self._process = self.pidfd = None
        return process.wait()

    def _start(self) -> tuple[subprocess.Popen[bytes], int]:
        """Start a process; with the end of the pipe on which it will say that it is ready."""
        if self.spec.server:
            end_leftovers(self.spec.server)
        word_fd, child_fd = os.pipe()
        inherited = (child_fd, self._around.alive_fd)
        named = {READY_FD: str(child_fd), ALIVE_FD: str(self._around.alive_fd)}
        try:
            with open_log(self._log_file) as output:
                process = subprocess.Popen(
                    self.spec.command(self.number),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=environment_of_child({**self._around.environment, **named}),
                    pass_fds=() if self.spec.server else inherited,
                    start_new_session=True,  # Ctrl-C in a terminal is for the supervisor, which drains in order
                )
        except OSError:
            os.close(word_fd)
            raise
        finally:
            os.close(child_fd)
        return process, word_fd

    async def _become_ready(self, word_fd: int) -> None:
        if self.spec.server:
            await _until_it_answers(self.spec.server)
        else:
            await readable(word_fd)
            if not os.read(word_fd, 64):
                return  # closed without a word: it is ending, or it never says so
        self._was_ready, self.boot_s = True, time.monotonic() - self.started_at
        if not self._stopped.is_set():
            self._set_state("ready")

    async def _pause(self, wait_s: float) -> None:
        """Wait, but not when the place is closed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._stopped.wait()

    async def _has_room(self) -> bool:
        """Whether an embedded server has disk to run on; said, and waited for a while, if not."""
        server = self.spec.server
        if server is not None:
            clear_unfinished(server)
        if server is None or has_room(server):
            self._told_no_room = False
            return True
        if not self._told_no_room:
            log.error("the disk is full, make room", process=self.name, folder=str(server.folder))
        self._told_no_room = True
        await self._pause(_ROOM_S)
        return False

    def _set_state(self, state: State) -> None:
        self.state = state
        self._around.on_change()

    def _signal(self, number: signal.Signals) -> None:
        if self.pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)

    def _kill_if_still(self, pid: int | None) -> None:
        if self.pid == pid:
            self._signal(signal.SIGKILL)

    async def _complain(self) -> None:
        """Say that the process is not ready, after a while and then seldom; those that die of it share one clock."""
        around = self._around
        await asyncio.sleep(around.complain_after_s)
        while not self._was_ready and not self._stopped.is_set():
            now = time.monotonic()
            if now - self._complained_at >= around.complain_again_s:
                self._complained_at, waited_s = now, round(now - self.started_at)
                log.error("process is not ready yet", process=self.name, after_s=waited_s, log=str(self._log_file))
            await asyncio.sleep(around.complain_again_s)


async def readable(descriptor: int) -> None:
    """Wait until there is something to read: a word, an end of file, or on a pidfd the end of the process."""
    loop = asyncio.get_running_loop()
    happened = asyncio.Event()
    loop.add_reader(descriptor, happened.set)
    try:
        await happened.wait()
    finally:
        loop.remove_reader(descriptor)


async def _until_it_answers(server: EmbeddedServer) -> None:
    while not await answers(server):  # noqa: ASYNC110 - another program, which sets no event of ours
        await asyncio.sleep(_PROBE_S)


def open_log(path: Path) -> BinaryIO:
    """Open a log to append to; a long one is put aside first."""
    if path.exists() and path.stat().st_size > _LOG_LIMIT_BYTES:
        path.replace(path.with_suffix(".log.1"))
    return path.open("ab")
