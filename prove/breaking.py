"""What is done to an installation at work: each thing hits somebody who has work in hand, and recovery is measured."""

import os
import random
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from app.channels.dingtalk.api import CREATE, STREAMING
from prove.broker import cut_clients, drop_wake_ups
from prove.crowd import Crowd
from prove.installation import Installation
from prove.outside import Servers
from prove.plan import LEASE_S, Step
from prove.record import Front, Record
from sandbox.client import SandboxClient

CATCH_LIMIT_S, MOVE_LIMIT_S = 60.0, 60.0
LOOK_EVERY_S = 0.02
NEXT_WORDS_S = 1.0  # somebody says something at least so often
OVERSLEPT_S = LEASE_S + 1.5  # a worker or sender sleeps past its leases
HICCUP_S = 1.5  # a server hangs for so long
SLOW_MS, SLOW_CALLS, UNSURE_CALLS = 1500, 10, 5
WEBHOOK = "/robot/sendBySession"
_Found = TypeVar("_Found")
POOLS = ("text", "image", "default", "sender")
SENDING = ("sender", "sweeper", "supervisor")  # who may have been sending: the sweeper is any worker


class NobodyAtWork(Exception):
    """Nobody who could be hit had work in hand: the messages ran out, or nothing moves any more."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What was done, and to whom. Times in seconds from the blow."""

    what: str
    whom: str
    pid: int = 0
    held: int = 0  # how much work the victim had in hand
    messages: list[str] = field(default_factory=list)  # ids of what it was sending
    recovery_s: list[float] = field(default_factory=list)  # until each thing that it held moved again
    boot_s: float = 0.0  # from the start of its successor to ready

    def ends_calls(self) -> bool:
        """Whether a call to the platform may have been cut off, or made by somebody whose lease was over."""
        return self.whom in SENDING and bool(self.messages)


class Breaker:
    """Does one thing after another to a running installation."""

    def __init__(
        self,
        house: Installation,
        servers: Servers,
        record: Record,
        *,
        crowd: Crowd,
        client: SandboxClient,
        chance: random.Random,
    ) -> None:
        self._house = house
        self._servers = servers
        self._record = record
        self._crowd = crowd
        self._client = client
        self._chance = chance
        self._watchers = ThreadPoolExecutor(1, thread_name_prefix="recovery")

    def do(self, step: Step) -> Fault:
        """Do one thing, and wait until what it hit is whole again.

        Raises:
            NobodyAtWork: there was no victim with work in hand.
            RunFailed: a role did not come back.
        """
        match step.what:
            case "kill":
                return self._kill(step.whom)
            case "freeze":
                return self._freeze(step.whom)
            case "cut":
                self._cut(step.whom)
            case "drop":
                drop_wake_ups(self._servers.broker_url)
            case "slow":
                for route in (CREATE, STREAMING, WEBHOOK):
                    self._client.answer(route, "slow", SLOW_CALLS, delay_ms=SLOW_MS)
            case "unsure":
                for route in (CREATE, STREAMING):
                    self._client.answer(route, "timeout_after", UNSURE_CALLS)
        return Fault(step.what, step.whom)

    def _kill(self, role: str) -> Fault:
        kills: dict[str, Callable[[], Fault]] = {
            "listener": self._kill_listener,
            "web": self._kill_web,
            "sweeper": self._kill_sweeper,
            "supervisor": self._kill_supervisor,
            "redis": lambda: self._kill_server("redis", self._all_fronts),
            "broker": lambda: self._kill_server("broker", self._record.waiting),
        }
        return kills.get(role, lambda: self._kill_worker(role))()

    # Who has work in hand

    def _worker_at_work(self, role: str) -> tuple[int, list[Front]]:
        """A worker of a pool, stopped, and what it holds."""

        def look() -> tuple[int, list[Front]] | None:
            ready = [one["pid"] for one in self._house.processes(role) if one["state"] == "ready"]
            for pid in self._chance.sample(ready, len(ready)):
                if held := self._stopped_with(pid, partial(self._record.held_by, {pid})):
                    return pid, held
            return None

        return self._catch(look, f"{role} has work in hand")

    def _stopped_with(self, pid: int, held: Callable[[], _Found]) -> _Found | None:
        """Stop a process and look at what it holds; it goes on if that is nothing."""
        os.kill(pid, signal.SIGSTOP)
        work: _Found | None = None
        try:
            work = held()
        finally:
            if not work:
                os.kill(pid, signal.SIGCONT)
        return work

    def _catch(self, look: Callable[[], _Found | None], what: str) -> _Found:
        """Look until there is something. Raises NobodyAtWork."""
        end = time.monotonic() + CATCH_LIMIT_S
        while (found := look()) is None:
            if time.monotonic() > end:
                raise NobodyAtWork(f"{what}: not within {CATCH_LIMIT_S:.0f} s")
            self._crowd.go_on()
            time.sleep(LOOK_EVERY_S)
        return found

    def _all_fronts(self) -> list[Front]:
        return [front for front in self._record.fronts() if front.holder or not front.later_ms]

    # Kills

    def _kill_worker(self, role: str) -> Fault:
        victim, held = self._worker_at_work(role)
        with self._recovery(held) as moved:
            boot_s = self._kill_and_wait(role, victim)
        ids = _ids(held) if role == "sender" else []
        return Fault("kill", role, victim, len(held), ids, moved.result(), boot_s)

    def _kill_sweeper(self) -> Fault:
        """Whichever worker sweeps; it is replaced by another that is there, not by its successor."""

        def look() -> tuple[int, str, list[Front]] | None:
            roles = {one["pid"]: one["role"] for one in self._house.processes() if one["state"] == "ready"}
            pid = self._record.sweeper()
            if pid not in roles or not self._stopped_with(pid, lambda: self._record.sweeper() == pid):
                return None
            return pid, roles[pid], self._record.held_by({pid})

        victim, role, held = self._catch(look, "somebody sweeps")
        before = self._pids(role)
        os.kill(victim, signal.SIGKILL)
        began = time.monotonic()
        self._catch(lambda: True if self._record.sweeper() not in (0, victim) else None, "somebody else sweeps")
        recovery_s = time.monotonic() - began
        self._whole_again(role, before)
        ids = _ids(held) if role == "sender" else []
        return Fault("kill", "sweeper", victim, 1, ids, [recovery_s])

    def _kill_listener(self) -> Fault:
        """With frames in hand that it has not acknowledged; whole again is it with the next acknowledgement."""

        def look() -> tuple[int, int] | None:
            for one in self._house.processes("listener"):
                if one["state"] == "ready" and (frames := self._stopped_with(one["pid"], self._frames)):
                    return one["pid"], frames
            return None

        victim, frames = self._catch(look, "the listener has frames in hand")
        began = time.monotonic()
        boot_s = self._kill_and_wait("listener", victim)
        acked_s = self._catch(lambda: self._crowd.first_ack_after(began), "the next frame is acknowledged")
        return Fault("kill", "listener", victim, frames, [], [acked_s - began], boot_s)

    def _frames(self) -> int:
        """How many frames lie unacknowledged with a listener that was stopped, once somebody has said something."""
        end = time.monotonic() + NEXT_WORDS_S
        while not (frames := self._crowd.unacked()) and time.monotonic() < end:
            self._crowd.go_on()
            time.sleep(LOOK_EVERY_S)
        return frames

    def _kill_web(self) -> Fault:
        """With a request in hand."""
        victim, before = self._catch(lambda: self._ready_pid("web"), "web is ready"), self._pids("web")
        os.kill(victim, signal.SIGSTOP)
        with socket.create_connection(("127.0.0.1", self._house.web_port)) as asking:
            asking.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            os.kill(victim, signal.SIGKILL)
        began = time.monotonic()
        self._catch(lambda: True if self._web_answers() else None, "web answers again")
        recovery_s = time.monotonic() - began
        return Fault("kill", "web", victim, 1, [], [recovery_s], self._whole_again("web", before))

    def _kill_server(self, role: str, work: Callable[[], list[Front]]) -> Fault:
        """One of the two servers, while somebody waits for what it knows."""

        held = self._catch(lambda: work() or None, f"the {role} is needed")
        outside = self._servers.outside(role)
        victim = outside.pid() if outside else self._catch(lambda: self._ready_pid(role), f"{role} is ready")
        with self._recovery(held) as moved:
            boot_s = outside.kill_and_start() if outside else self._kill_and_wait(role, victim)
        return Fault("kill", role, victim, len(held), [], moved.result(), boot_s)

    def _kill_supervisor(self) -> Fault:
        """Everything of this machine goes with it, and somebody starts it again.

        Its processes hand back what they hold, so what is to move again is looked at when the next ones are starting.
        """
        sending = self._catch(lambda: self._all_fronts() or None, "something waits")
        victim, began = self._house.process.pid, time.monotonic()
        self._house.kill_supervisor()
        started = time.monotonic()
        self._catch(lambda: self._house.processes("listener") or None, "the next supervisor starts its processes")
        held = self._catch(lambda: self._all_fronts() or None, "something waits")
        with self._recovery(held, began) as moved:
            self._house.until_ready()
            boot_s = time.monotonic() - started
        ids = _ids(front for front in sending if front.box == "outbox")
        return Fault("kill", "supervisor", victim, len(held), ids, moved.result(), round(boot_s, 2))

    # Lesser evils

    def _freeze(self, role: str) -> Fault:
        """A worker sleeps past its leases, a server hangs."""
        held: list[Front] = []
        if role in POOLS:
            victim, held = self._worker_at_work(role)
        else:
            outside = self._servers.outside(role)
            victim = outside.pid() if outside else self._catch(lambda: self._ready_pid(role), f"{role} is ready")
            os.kill(victim, signal.SIGSTOP)
        try:
            time.sleep(HICCUP_S if role in ("redis", "broker") else OVERSLEPT_S)
        finally:
            os.kill(victim, signal.SIGCONT)
        return Fault("freeze", role, victim, len(held), _ids(held) if role == "sender" else [])

    def _cut(self, whom: str) -> None:
        if whom == "platform":
            self._client.fault("drop", connection="all")
        elif whom == "record" and not self._servers.outside("redis"):
            cut_clients(self._servers.record_url)
        elif whom == "broker" and not self._servers.outside("broker"):
            cut_clients(self._servers.broker_url)

    # Recovery

    @contextmanager
    def _recovery(self, held: Sequence[Front], began: float = 0.0) -> Iterator["Future[list[float]]"]:
        """Measure beside the block, from its start if from no other time, when each of these has moved again."""
        watching = self._watchers.submit(self._watch, held, began or time.monotonic())
        yield watching
        watching.result()

    def _watch(self, held: Sequence[Front], began: float) -> list[float]:
        left, moved_s = list(held), []
        while left:
            time.sleep(LOOK_EVERY_S)
            moved = [front for front in left if self._record.moved(front)]
            moved_s += [time.monotonic() - began] * len(moved)
            left = [front for front in left if front not in moved]
            if time.monotonic() - began > MOVE_LIMIT_S:  # the verdict will say what became of them
                moved_s += [MOVE_LIMIT_S] * len(left)
                break
        return [round(seconds, 3) for seconds in moved_s]

    def _kill_and_wait(self, role: str, victim: int) -> float:
        before = self._pids(role)
        os.kill(victim, signal.SIGKILL)
        return self._whole_again(role, before)

    def _whole_again(self, role: str, before: set[int]) -> float:
        """Wait until somebody new takes the place of who was killed, and is ready; how long that one took to boot."""

        def successors() -> list[float]:
            now = self._house.processes(role)
            ready = all(one["state"] == "ready" for one in now)
            return [one["boot_s"] for one in now if one["pid"] not in before] if ready else []

        self._house.wait_until(lambda: bool(successors()), f"{role} comes back")
        return max(successors(), default=0.0)

    def _pids(self, role: str) -> set[int]:
        return {one["pid"] for one in self._house.processes(role)}

    def _ready_pid(self, role: str) -> int | None:
        return next((one["pid"] for one in self._house.processes(role) if one["state"] == "ready"), None)

    def _web_answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self._house.web_port), timeout=2) as asking:
                asking.settimeout(2)
                asking.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
                return asking.recv(64).startswith(b"HTTP/1.1 200")
        except OSError:
            return False


def _ids(fronts: Iterable[Front]) -> list[str]:
    """The platform's own ids of messages, as they stand in its log."""
    return [front.id.rpartition(":")[2] for front in fronts]
