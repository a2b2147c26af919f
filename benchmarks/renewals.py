"""Whether leases are renewed in time while their process computes: the gaps between renewals, against the intended one.

`python -m benchmarks.renewals` holds as many leases as a text worker, in a process that does nothing, then in one whose
engine writes that many XX is the time between two answers of the record; 1 is the pace that is meant, and a
lease ends when a gap reaches the number in the last line.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from app.acceptance import Limits
from app.mailbox import DraftLease, Lease, Mailbox
from app.message import Address, Message, Reply
from app.redis import Store
from benchmarks import engine as engines
from benchmarks.accept import embedded
from benchmarks.figures import Figure, Reach, arguments_for, median, percentile, say, show
from workers.engine.interface import Request
from workers.leases import Leases, interval_of, keep_pace

if TYPE_CHECKING:
    from workers.engine.loading import Loaded

LEASE_S, SECONDS, HELD, SPINNING = 2.0, 60.0, 32, 16
DEFAULT_SWITCH_S = 0.005  # Python's own
WORST_REACH = Reach("<", 2)
PROMPT_TOKENS, ANSWER_TOKENS = 64, 512

AS_IT_WOULD_BE = "threads hold the lock, by default"

Load = Callable[[], AbstractContextManager[None]]


class Noting(Mailbox):
    """A mailbox that notes when each renewal was answered, by time.monotonic()."""

    def __init__(self, store: Store, limits: Limits) -> None:
        super().__init__(store, "inbox", limits)
        self.renewed_at: list[float] = []

    def renew(self, leases: Sequence[Lease | DraftLease]) -> list[tuple[bool, bool] | None]:
        answer = super().renew(leases)
        self.renewed_at.append(time.monotonic())
        return answer


@contextmanager
def spinning(threads: int = SPINNING) -> Iterator[None]:
    """Threads that compute in pure Python: each gives the lock away only when it is told to."""
    enough = threading.Event()

    def spin() -> None:
        while not enough.is_set():
            sum(range(10_000))

    with _running([spin] * threads):
        try:
            yield
        finally:
            enough.set()


@contextmanager
def spinning_by_default() -> Iterator[None]:
    """The same in a process that hands the lock on as seldom as Python does by itself."""
    kept = sys.getswitchinterval()
    sys.setswitchinterval(DEFAULT_SWITCH_S)
    try:
        with spinning():
            yield
    finally:
        sys.setswitchinterval(kept)


@contextmanager
def writing(loaded: "Loaded", requests: int = HELD) -> Iterator[None]:
    """An engine that always writes so many answers, each read by a thread as in a turn."""
    from workers.engine.slots import SlotsEngine

    engine = SlotsEngine(loaded, slots=requests, max_tokens=PROMPT_TOKENS + ANSWER_TOKENS + 1, threads=1)
    enough, begun = threading.Event(), threading.Semaphore(0)

    def read() -> None:
        while not enough.is_set():
            request = Request(messages=(), max_new_tokens=ANSWER_TOKENS)
            handle = engine.start(list(range(100, 100 + PROMPT_TOKENS)), request).handle
            for _ in handle:
                begun.release()
                if enough.is_set():
                    handle.cancel()

    with _running([read] * requests):
        try:
            for _ in range(requests):
                begun.acquire()
            yield
        finally:
            enough.set()
    engine.close()


@contextmanager
def _running(work: Sequence[Callable[[], None]]) -> Iterator[None]:
    """Each in a thread of its own; left when all have ended."""
    threads = [threading.Thread(target=one) for one in work]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for thread in threads:
            thread.join()


def gaps(store: Store, load: Load, *, lease_s: float, seconds: float, held: int) -> list[float]:
    """The times between renewals, as ratios to the intended one."""
    inbox = Noting(store, Limits(lease_s=lease_s))
    leases = Leases({"inbox": inbox}, lease_s=lease_s, on_hung=lambda: None)
    with ExitStack() as stack:
        stack.callback(leases.close)
        for number in range(held):
            stack.enter_context(leases.holding(_leased(inbox, number), limit_s=24 * 3600.0))
        with load():
            inbox.renewed_at.clear()
            time.sleep(seconds)
            times = list(inbox.renewed_at)
    return [(later - earlier) / interval_of(lease_s) for earlier, later in pairwise(times)]


def _leased(inbox: Mailbox, number: int) -> Lease:
    """A new message of a conversation of its own, leased."""
    address = Address(channel="dingtalk", robot="bot", chat="cid=", group=False, person="p", nick="")
    name = f"renewals-{time.monotonic_ns()}-{number}"
    message = Message(id=name, conversation=name, kind="text", text="", sent_at=time.time(), address=address)
    notice = Reply(id=name, conversation=name, address=address, text="")
    inbox.accept(message, "text", notices=(notice, notice))
    held = inbox.lease(name, "text")
    assert isinstance(held, Lease)
    return held


def measure(store: Store, loads: dict[str, Load], *, lease_s: float, seconds: float, held: int) -> list[Figure]:
    """Every load in turn."""
    found: list[Figure] = []
    for name, load in loads.items():
        ratios = gaps(store, load, lease_s=lease_s, seconds=seconds, held=held)
        say(f"{name}: {len(ratios)} gaps")
        found += figures(name, ratios, None if name == AS_IT_WOULD_BE else WORST_REACH)
    return [*found, Figure("a lease ends at", lease_s / interval_of(lease_s), "x")]


def figures(name: str, ratios: Sequence[float], worst_reach: Reach | None) -> list[Figure]:
    """What one load did to the renewals."""
    return [
        Figure(f"{name}: gap, p50", median(ratios), "x"),
        Figure(f"{name}: gap, p99", percentile(ratios, 0.99), "x"),
        Figure(f"{name}: gap, worst", percentile(ratios, 1.0), "x", worst_reach),
    ]


def read_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = arguments_for(__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="how long each load is watched")
    parser.add_argument("--lease", type=float, default=LEASE_S, help="the lease, in seconds; 10 is the usual one")
    parser.add_argument("--held", type=int, default=HELD, help="leases, and answers that are written at the same time")
    parser.add_argument("--model", default="", help="a folder; empty: the demo model")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    arguments = read_arguments(argv)
    loaded = engines.load(arguments.model, "float32")
    loads: dict[str, Load] = {
        "idle": nullcontext,
        "the engine writes": lambda: writing(loaded, arguments.held),
        "threads hold the lock": spinning,
        AS_IT_WOULD_BE: spinning_by_default,
    }
    keep_pace()
    with (
        tempfile.TemporaryDirectory(prefix="switchyard-renewals-") as folder,
        embedded("redis", Path(folder)) as record,
    ):
        store = Store(record.url.get_secret_value())
        found = measure(store, loads, lease_s=arguments.lease, seconds=arguments.seconds, held=arguments.held)
        store.close()
    show(found, arguments)


if __name__ == "__main__":
    main()
