"""How fast one listener stores, wakes and acknowledges, against the vendor's SDK that hands over to Celery.

`python -m benchmarks.accept` pushes frames of distinct conversations to one process at a time, in turns, from the same
gateway, on the same two servers: ours stores each frame with `appendfsync always`, the peer's broker stores nothing.
A frame counts when it is acknowledged and its wake-up is at the broker. Each has one connection: the SDK opens no more.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import redis

from app.process import environment_of_child
from app.servers import EmbeddedServer, ServerRole, answers, prepare
from benchmarks.figures import Figure, Reach, arguments_for, median, percentile, say, show
from benchmarks.gateway import Order, Pushed
from benchmarks.peer import QUEUE as PEER_QUEUE

RATIO_REACH, ACK_REACH = Reach(">=", 1), Reach("<", 20)
START_LIMIT_S = 30.0
WAKE_LIMIT_S = 120.0
POLL_S = 0.002
WARM_UP = 200
STEADY_PER_S = 200.0
CONNECTIONS = 1  # of each contender; a client of the SDK has one


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to take frames: its process, and the queue that it fills, if any."""

    name: str
    module: tuple[str, ...]
    queue: str


LISTENER = Contender("listener", ("app.cli", "run", "listener"), "text")
UNWOKEN = Contender("listener without wake-ups", ("benchmarks.unwoken",), "")
PEER = Contender("SDK and apply_async", ("benchmarks.peer",), PEER_QUEUE)


@dataclass(frozen=True, slots=True)
class Bench:
    """What all contenders share."""

    gateway: "GatewayProcess"
    record: EmbeddedServer
    broker: EmbeddedServer

    def environment(self) -> dict[str, str]:
        """The settings of a contender. The house has room for everything that is pushed: nobody answers here."""
        return {
            "SWITCHYARD_REDIS_URL": self.record.url.get_secret_value(),
            "SWITCHYARD_BROKER_URL": self.broker.url.get_secret_value(),
            "SWITCHYARD_WAITING_LIMIT": "1000000000",
            "SWITCHYARD_CONNECTIONS": str(CONNECTIONS),
            "SWITCHYARD_LOG_LEVEL": "warning",
            "DINGTALK_CLIENT_ID": "dingbenchmark",
            "DINGTALK_CLIENT_SECRET": "none",
            "DINGTALK_OPENAPI_ENDPOINT": self.gateway.url,
        }

    def empty(self) -> None:
        """Forget what the last contender left."""
        for server in (self.record, self.broker):
            with redis.Redis.from_url(server.url.get_secret_value()) as client:
                client.flushall()


class GatewayProcess:
    """The gateway in its own process; every call raises OSError if that has ended."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.url: str = json.loads(self._line())["url"]

    def push(self, order: Order) -> Pushed:
        """Push, and wait for the acks."""
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(order).decode() + "\n")
        self._process.stdin.flush()
        return msgspec.json.decode(self._line(), type=Pushed)

    def _line(self) -> str:
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            raise BrokenPipeError("the gateway ended; its standard error says why")
        return line


@contextmanager
def bench(folder: Path) -> Iterator[Bench]:
    """A gateway, a record and a broker, empty; ended afterwards."""
    with embedded("redis", folder) as record, embedded("broker", folder) as broker:
        command = [sys.executable, "-m", "benchmarks.gateway"]
        with _ended(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)) as process:
            yield Bench(GatewayProcess(process), record, broker)


@contextmanager
def embedded(role: ServerRole, folder: Path) -> Iterator[EmbeddedServer]:
    """An empty server of a kind, ended afterwards."""
    server = prepare(role, folder)
    with _ended(subprocess.Popen(server.command, stdout=subprocess.DEVNULL, text=True)):
        deadline = time.monotonic() + START_LIMIT_S
        while not asyncio.run(answers(server)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{role} did not start within {START_LIMIT_S:.0f} s")
            time.sleep(POLL_S)
        yield server


@contextmanager
def _ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """Yields a process and ends it afterwards."""
    with process:
        try:
            yield process
        finally:
            process.terminate()


@contextmanager
def running(contender: Contender, on: Bench) -> Iterator[None]:
    """A contender alone on empty servers, warm; ended afterwards."""
    on.empty()
    command = [sys.executable, "-m", *contender.module]
    environment = environment_of_child(on.environment())
    with _ended(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, text=True)):
        on.gateway.push(Order(frames=WARM_UP, connections=CONNECTIONS))
        yield


def frames_per_s(contender: Contender, on: Bench, frames: int) -> float:
    """Frames acknowledged and woken in a second, from the first push on."""
    with running(contender, on):
        before = _woken(contender, on, WARM_UP)
        pushed = on.gateway.push(Order(frames=frames, connections=CONNECTIONS))
        woken_s = _woken(contender, on, WARM_UP + frames) if contender.queue else before
        return frames / (max(pushed.last_ack_s, woken_s) - pushed.first_push_s)


def _woken(contender: Contender, on: Bench, count: int) -> float:
    """When so many wake-ups were at the broker; at once if this contender wakes nobody."""
    deadline = time.monotonic() + WAKE_LIMIT_S
    with redis.Redis.from_url(on.broker.url.get_secret_value()) as client:
        while contender.queue and client.llen(contender.queue) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{contender.name}: wake-ups are missing")
            time.sleep(POLL_S)
    return time.monotonic()


def frame_to_ack_ms(contender: Contender, on: Bench, seconds: float) -> list[float]:
    """Milliseconds from frame to ack, at 200 frames a second whatever comes back."""
    order = Order(frames=int(seconds * STEADY_PER_S), connections=CONNECTIONS, per_s=STEADY_PER_S)
    with running(contender, on):
        return on.gateway.push(order).frame_to_ack_ms


def measure(on: Bench, *, frames: int, rounds: int, steady_s: float) -> list[Figure]:
    """Every contender once a round, in turns; the median counts."""
    rates: dict[Contender, list[float]] = {LISTENER: [], PEER: [], UNWOKEN: []}
    for number in range(rounds):
        for contender, found in rates.items():
            found.append(frames_per_s(contender, on, frames))
            say(f"round {number + 1}: {contender.name}: {found[-1]:,.0f} frames/s")
    say(f"{STEADY_PER_S:.0f} frames/s for {steady_s:g} s")
    took_ms = {contender: frame_to_ack_ms(contender, on, steady_s) for contender in (LISTENER, PEER)}
    return [*_rates(rates), *_latencies(took_ms), Figure("connections of each", CONNECTIONS)]


def _rates(rates: dict[Contender, list[float]]) -> list[Figure]:
    figures = [Figure(contender.name, median(found), "frames/s") for contender, found in rates.items()]
    ratio = median([ours / theirs for ours, theirs in zip(rates[LISTENER], rates[PEER], strict=True)])
    return [*figures, Figure("listener / SDK, median of rounds", ratio, "x", RATIO_REACH)]


def _latencies(took_ms: dict[Contender, list[float]]) -> list[Figure]:
    at = f"frame to ack at {STEADY_PER_S:.0f}/s"
    ours, theirs = took_ms[LISTENER], took_ms[PEER]
    return [
        Figure(f"listener: {at}, p50", percentile(ours, 0.5), "ms"),
        Figure(f"listener: {at}, p99", percentile(ours, 0.99), "ms", ACK_REACH),
        Figure(f"SDK: {at}, p99", percentile(theirs, 0.99), "ms"),
    ]


def read_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = arguments_for(__doc__)
    parser.add_argument("--frames", type=int, default=5000, help="frames in each run")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contender")
    parser.add_argument("--steady-s", type=float, default=10, help="how long frames come steadily")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    arguments = read_arguments(argv)
    with tempfile.TemporaryDirectory(prefix="switchyard-accept-") as folder, bench(Path(folder)) as on:
        found = measure(on, frames=arguments.frames, rounds=arguments.rounds, steady_s=arguments.steady_s)
    show(found, arguments)


if __name__ == "__main__":
    main()
