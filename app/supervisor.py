"""Every process of this machine under one supervisor: start in order, restart, scale, drain in order.

What belongs to one process is in child.py; the lock, and the end of everything after a kill -9, in warden.py; the
requests of `switchyard ps`, `scale` and `restart` come in through control.py.
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import structlog

from app import control, warden
from app.child import Child, Spec, Surroundings, open_log, readable
from app.errors import BadSetting
from app.process import EVERYTHING_STOPS, SERVERS_ALONE_S
from app.rolling import roles_to_restart, roll
from app.settings import POOLS, Settings

LOCK_WAIT_S = 15.0
SCALE_LIMIT = 64
_ANSWERING: frozenset[str] = frozenset(POOLS) - {"sender"}
_SCALABLE: frozenset[str] = frozenset(POOLS)
# Of the drain time: the listener's own part, and what is left over when the others and the servers must be gone.
_LISTENER_SHARE, _LISTENER_LONGEST_S = 0.075, 1.5
_AFTER_WORKERS_S, _AFTER_OTHERS_S, _AFTER_SERVERS_S = 2.2, SERVERS_ALONE_S, 0.4
_LAST_SENDS_S = 0.3  # what the last turns committed goes out
_WEIGH_S = 2.0
_WARDEN_PAUSE_S, _WARDEN_END_S = 0.2, 0.5

log = structlog.get_logger()


class Supervisor:
    """Starts what the specs say and keeps it running until it is told to stop.

    The specs come from a function, called when the data folder is ours: it may write there.
    """

    def __init__(self, settings: Settings, specs: Callable[[Settings], Sequence[Spec]]) -> None:
        self._data_dir: Path = settings.data_dir.resolve()
        self._settings = settings.model_copy(update={"data_dir": self._data_dir})
        self._make_specs = specs
        self._specs: Sequence[Spec] = ()
        self._wanted: dict[str, int] = {}
        self._children: list[Child] = []
        self._places: set[asyncio.Task[None]] = set()
        self._rolling: asyncio.Task[str] | None = None
        self._started = False  # whether everything was ready once
        self._stop = asyncio.Event()
        self._changed = asyncio.Event()
        self._warden: socket.socket | None = None

    async def run(self) -> None:
        """Run until SIGTERM, SIGINT, SIGHUP or a `stop` request; prints `ready` once, when everything is.

        Raises:
            AlreadyRunning: another supervisor holds the data folder.
            BadSetting: the data folder cannot be made or written.
        """
        _make_folder(self._data_dir)
        with _writing(self._data_dir):
            lock = warden.take_lock(self._data_dir, wait_s=LOCK_WAIT_S, say=log.warning)
        alive_fd, our_end = os.pipe()  # our end is closed by our death, and that is what the children read
        try:
            self._listen_to_signals()
            with _writing(self._data_dir):
                self._specs = self._make_specs(self._settings)
            self._wanted = {spec.role: spec.count for spec in self._specs}
            await self._supervise(lock, alive_fd)
        finally:
            for descriptor in (alive_fd, our_end, lock):
                os.close(descriptor)
        log.info("stopped")

    def ps(self) -> list[dict[str, Any]]:
        """All processes, in the order in which they were started; `pid` is None between two lives."""
        now = time.monotonic()
        return [
            {
                "role": child.spec.role,
                "pid": child.pid,
                "queue": child.spec.queue,
                "state": child.state,
                "uptime_s": round(now - child.started_at, 1) if child.pid else 0.0,
                "boot_s": round(child.boot_s, 2),
            }
            for child in self._children
        ]

    def scale(self, pools: dict[str, int]) -> None:
        """Set the number of processes of pools: new ones start, surplus ones drain, the newest first.

        Raises:
            BadSetting: no such pool, or no such number; nothing was changed.
        """
        known = {spec.role: spec for spec in self._specs if spec.role in _SCALABLE}
        for role, count in pools.items():
            if role not in known or type(count) is not int or not 0 <= count <= SCALE_LIMIT:
                raise BadSetting(f"scale: write it as text=2, with one of {', '.join(known)} and 0 to {SCALE_LIMIT}")
        if self._stop.is_set():
            raise BadSetting("scale: the supervisor is stopping; start it again with the new numbers")
        self._wanted.update(pools)
        for role in pools:
            self._fill(known[role])

    def restart(self, named: Sequence[str]) -> None:
        """Begin to replace the processes of roles, one after another; with no name, of all roles but the servers.

        Raises:
            BadSetting: no such role, or this is not the time; nothing was changed.
        """
        roles = roles_to_restart(named, {spec.role for spec in self._specs})
        if self._stop.is_set() or not self._started:
            raise BadSetting("restart: the supervisor is starting or stopping; wait for `ready`")
        if self._rolling and not self._rolling.done():
            raise BadSetting("restart: one is under way; wait for its end")
        children = [child for role in roles for child in self._children if child.spec.role == role]
        self._rolling = self._tasks.create_task(
            roll(
                children,
                until=self._until,
                beside=self._open_place,
                is_there=self._children.__contains__,
                drain_s=self._settings.drain_s,
            )
        )

    def _how_far(self) -> str:
        """What became of the last restart; empty if there was none."""
        if self._rolling is None or self._rolling.cancelled():
            return ""
        return self._rolling.result() if self._rolling.done() else control.RESTART_UNDER_WAY

    async def _supervise(self, lock: int, alive_fd: int) -> None:
        async with control.serve(self._data_dir, self._answer), asyncio.TaskGroup() as tasks:
            self._tasks, self._around = tasks, self._surroundings(alive_fd)
            guard = tasks.create_task(self._keep_warden(lock))
            weigher = tasks.create_task(self._replace_what_has_grown())
            starting = tasks.create_task(self._bring_up())
            await self._stop.wait()
            starting.cancel()
            if self._rolling:
                self._rolling.cancel()
            await self._drain()
            guard.cancel()
            weigher.cancel()
            for place in self._places:  # what a kill did not end (a hanging disk) is the warden's
                place.cancel()

    # Starting

    def _surroundings(self, alive_fd: int) -> Surroundings:
        logs = self._data_dir / "logs"
        logs.mkdir(mode=0o700, exist_ok=True)
        addresses = {
            f"SWITCHYARD_{spec.role.upper()}_URL": spec.server.url.get_secret_value()
            for spec in self._specs
            if spec.server
        }
        return Surroundings(
            environment={"SWITCHYARD_DATA_DIR": str(self._data_dir), **addresses},
            log_folder=logs,
            alive_fd=alive_fd,
            on_change=self._changed.set,
            adopt=self._tell_warden,
        )

    async def _bring_up(self) -> None:
        """Start what is early, then, when the servers answer, the rest; say so when all of it is ready."""
        for spec in self._specs:
            if spec.early:
                self._fill(spec)
        await self._until(lambda: all(child.state == "ready" for child in self._children if child.spec.server))
        for spec in self._specs:
            if not spec.early:
                self._fill(spec)
        await self._until(lambda: all(child.state == "ready" for child in self._children))
        self._started = True
        print("ready", flush=True)
        log.info("ready", processes=len(self._children))

    def _fill(self, spec: Spec) -> None:
        """Have as many places of a role as are wanted, beside those that leave."""
        count = self._wanted[spec.role]
        staying = [child for child in self._children if child.spec is spec and not child.leaves]
        for surplus in staying[count:]:
            surplus.drain(self._settings.drain_s)
        for _ in range(count - len(staying)):
            self._open_place(spec)

    def _open_place(self, spec: Spec) -> Child:
        """One more place of a role, with the lowest number that is free."""
        taken = {child.number for child in self._children if child.spec is spec}
        child = Child(spec, min(set(range(1, len(taken) + 2)) - taken), self._around)
        self._children.append(child)
        place = self._tasks.create_task(self._keep(child))
        self._places.add(place)
        place.add_done_callback(self._places.discard)
        return child

    async def _keep(self, child: Child) -> None:
        try:
            await child.run()
        finally:
            self._children.remove(child)
            self._changed.set()

    async def _replace_what_has_grown(self) -> None:
        """One process of a role at a time, so that the others go on."""
        while self._settings.max_rss_mb:
            await asyncio.sleep(_WEIGH_S)
            for role, limit_mb in self._settings.max_rss_mb.items():
                ours = [child for child in self._children if child.spec.role == role]
                if any(child.state != "ready" for child in ours):
                    continue
                heaviest = max(ours, key=Child.rss_mb, default=None)
                if heaviest is not None and heaviest.rss_mb() > limit_mb:
                    log.warning("process has grown and is replaced", process=heaviest.name, limit_mb=limit_mb)
                    heaviest.replace(self._settings.drain_s)

    # Stopping

    def _listen_to_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)

    async def _drain(self) -> None:
        """The listener first, so that nothing new comes in; the servers last, so that all can write to the end.

        The senders stop when the turns have: their answers go out now and not after the next start. They hear of the
        end at once all the same, so that they begin nothing that they could not finish; one that is only starting could
        not hear it, has nothing in hand, and goes.
        """
        log.info("stopping", within_s=self._settings.drain_s)
        end = time.monotonic() + self._settings.drain_s
        listener_end = time.monotonic() + min(_LISTENER_SHARE * self._settings.drain_s, _LISTENER_LONGEST_S)
        workers_end, others_end, servers_end = (
            end - after_s for after_s in (_AFTER_WORKERS_S, _AFTER_OTHERS_S, _AFTER_SERVERS_S)
        )

        async def stop(of_this: Callable[[Child], bool], *, kill_at: float, wait_until: float) -> None:
            for child in filter(of_this, self._children):
                child.drain(kill_at - time.monotonic())
            await self._until(lambda: not any(map(of_this, self._children)), within_s=wait_until - time.monotonic())

        for child in self._children:
            if child.spec.role == "sender" and child.state in ("starting", "restarting"):
                child.drain(others_end - time.monotonic())
            elif child.spec.role == "sender":
                child.tell(EVERYTHING_STOPS)
        await stop(_is_listener, kill_at=others_end, wait_until=listener_end)
        await stop(_is_answering, kill_at=workers_end, wait_until=workers_end)
        await asyncio.sleep(_LAST_SENDS_S)
        await stop(_is_no_server, kill_at=others_end, wait_until=servers_end)
        await stop(_is_any, kill_at=servers_end, wait_until=end)

    async def _until(self, condition: Callable[[], bool], *, within_s: float | None = None) -> None:
        """Wait until the children are as wanted, or the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()

    # The warden and the door

    async def _keep_warden(self, lock: int) -> None:
        """Have a warden at all times."""
        while True:
            process = self._start_warden(lock)
            try:
                await _ended(process)
            finally:
                if self._warden:
                    self._warden.close()  # tells the warden to end what is left, and itself
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_WARDEN_END_S)
            log.error("the warden ended, starting another", status=process.returncode)
            await asyncio.sleep(_WARDEN_PAUSE_S)

    def _start_warden(self, lock: int) -> subprocess.Popen[bytes]:
        self._warden, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._warden.setblocking(False)
        for child in self._children:  # before it runs: it must never be there and know nobody
            self._tell_warden(child)
        with theirs, open_log(self._around.log_folder / "warden.log") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "app.warden", str(lock), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(lock, theirs.fileno()),
                start_new_session=True,
            )

    def _tell_warden(self, child: Child) -> None:
        if self._warden and child.pidfd is not None:
            warden.hand_over(self._warden, warden.SERVER if child.spec.server else warden.CHILD, child.pidfd)

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        match request:
            case {"do": "ps"}:
                return {"started": self._started, "processes": self.ps(), "restart": self._how_far()}
            case {"do": "scale", "pools": dict(pools)}:
                self.scale(pools)
                return {}
            case {"do": "restart", "roles": [*roles]}:
                self.restart(list(map(str, roles)))
                return {}
            case {"do": "stop"}:
                self._stop.set()
                return {}
        raise BadSetting("a request is one of ps, scale with pools, restart with roles, stop")


def _make_folder(data_dir: Path) -> None:
    with _writing(data_dir):
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=data_dir):
            pass


@contextlib.contextmanager
def _writing(data_dir: Path) -> Iterator[None]:
    """Tell in a sentence that the data folder cannot be written. Raises BadSetting."""
    try:
        yield
    except OSError as exc:
        raise BadSetting(
            f"SWITCHYARD_DATA_DIR: {data_dir} cannot be made or written ({exc.strerror}); name a folder of this user, "
            "with room on its disk"
        ) from exc


async def _ended(process: subprocess.Popen[bytes]) -> None:
    pidfd = os.pidfd_open(process.pid)
    try:
        await readable(pidfd)
    finally:
        os.close(pidfd)


def _is_listener(child: Child) -> bool:
    return child.spec.role == "listener"


def _is_answering(child: Child) -> bool:
    return child.spec.role in _ANSWERING


def _is_no_server(child: Child) -> bool:
    return child.spec.server is None


def _is_any(child: Child) -> bool:
    return True
