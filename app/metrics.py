"""What operators measure: how long the lines are, how much room is left, what the engines do. Read from the record
when asked.

Counts and times alone: no person's words and no conversation are in a name or a label. A reading is kept for a second
and bounded in time, so that many who ask are no load.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import closing

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from app.census import count_dead_letters, take_census
from app.disk import Disk
from app.engine_metrics import engine_metrics
from app.engines import read_engines
from app.keys import Box
from app.redis import Store
from app.room import NO_ANSWER, What, memory_of, shortage_of_disk, shortages_of_record
from app.servers import disk_of_record
from app.settings import Settings

FRESH_S = 1.0
LIMIT_S = 5.0
_PATIENCE_S = 1.0
_BOXES: tuple[Box, ...] = ("inbox", "outbox", "control")
_REASONS: tuple[What, ...] = ("memory", "disk", "waiting")


class Metrics:
    """The page of one web process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._reading: asyncio.Task[list[Metric]] | None = None
        self._last: list[Metric] = []
        self._read_at = float("-inf")
        self._asking = asyncio.Lock()

    async def page(self, accept: str) -> tuple[bytes, str]:
        """The metrics in a format that the caller accepts (its Accept header), and the name of that format."""
        async with self._asking:
            if time.monotonic() - self._read_at > FRESH_S:
                self._last = await self._read()
                self._read_at = time.monotonic()
            encode, content_type = choose_encoder(accept)
            registry = CollectorRegistry(auto_describe=False)
            registry.register(_Read(self._last))
            return encode(registry), content_type

    async def _read(self) -> list[Metric]:
        """A reading; of one that is late, only that. One that still hangs is not begun a second time."""
        if self._reading is None:
            self._reading = asyncio.create_task(asyncio.to_thread(read, self._settings))
        done, _ = await asyncio.wait([self._reading], timeout=LIMIT_S)
        if not done:
            return [_up(False)]
        reading, self._reading = self._reading, None
        return reading.result()


class _Read(Collector):
    """What was read, for the library's encoders."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return iter(self._metrics)


def read(settings: Settings) -> list[Metric]:
    """All metrics now. Of a record that does not answer, only its disk and that it is down."""
    disk = disk_of_record(settings)
    full = {one.what for one in shortage_of_disk(disk)}
    metrics = list(_disk(disk))
    url = settings.redis_url.get_secret_value()
    try:
        with closing(Store(url, deadline_s=_PATIENCE_S, timeout_s=_PATIENCE_S)) as store:
            full |= {one.what for one in shortages_of_record(store, settings.waiting_limit)}
            metrics += [*_lines(store), *_memory(store), *engine_metrics(read_engines(store))]
    except NO_ANSWER:
        return [_up(False), _full(full), *metrics]
    limit = _gauge("waiting_limit", "how many messages may wait in all inboxes together", settings.waiting_limit)
    return [_up(True), _full(full), limit, *metrics]


def _lines(store: Store) -> Iterator[Metric]:
    waiting = _by_box("waiting_items", "messages (outbox: replies) that wait and that nobody works on")
    in_work = _by_box("in_work_mailboxes", "mailboxes whose head somebody works on")
    oldest = _by_box("oldest_waiting_seconds", "how long the oldest head that nobody works on has waited")
    for box in _BOXES:
        census = take_census(store, box)
        waiting.add_metric([box], census.waiting)
        in_work.add_metric([box], census.in_work)
        oldest.add_metric([box], census.oldest_s)
    yield from (waiting, in_work, oldest)
    yield _gauge("dead_letters", "messages and replies that were given up and are kept", count_dead_letters(store))


def _memory(store: Store) -> Iterator[Metric]:
    if memory := memory_of(store):
        yield _gauge("record_memory_used_bytes", "memory that the record uses", memory.used)
        yield _gauge("record_memory_limit_bytes", "memory that the record may use; 0: no limit", memory.limit)


def _disk(disk: Disk | None) -> Iterator[Metric]:
    if disk is None:
        return
    try:
        space = disk.look()
    except OSError:
        return  # that it cannot be asked is a shortage, and stands there
    yield _gauge("record_disk_free_bytes", "what is free of the embedded record's disk", space.free)
    yield _gauge("record_disk_reserve_bytes", "what must stay free of it, or nothing new is stored", space.reserve)


def _up(answers: bool) -> Metric:
    return _gauge("record_up", "whether the record answers", answers)


def _full(reasons: set[What]) -> Metric:
    family = GaugeMetricFamily(
        "switchyard_full",
        "1 if nothing new is stored for want of memory or disk, or people are told to come back (waiting)",
        labels=["reason"],
    )
    for reason in _REASONS:
        family.add_metric([reason], reason in reasons)
    return family


def _gauge(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(f"switchyard_{name}", what, value=value)


def _by_box(name: str, what: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"switchyard_{name}", what, labels=["box"])
