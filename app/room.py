"""What the house is short of, each with its mend. Asked of the record and of its disk, and only read.

Without memory or disk nothing new is stored: the listener keeps its frames unacknowledged, and the platform the rest.
At the limit of waiting messages the record takes no more of them either, but then people are told.
"""

from contextlib import closing
from dataclasses import dataclass
from typing import Literal

from redis.exceptions import RedisClusterException, RedisError

from app import keys
from app.census import count_items
from app.disk import Disk, in_mb
from app.errors import BadSetting, StoreFull, StoreUnavailable
from app.redis import Store
from app.servers import disk_of_record
from app.settings import Settings

What = Literal["memory", "disk", "waiting"]
# It is down, not for us, or not an address.
NO_ANSWER = (StoreUnavailable, BadSetting, RedisError, RedisClusterException, ValueError)
PADDING = b"." * 64 * 1024  # as heavy as a message with a long text: less room than that is none


@dataclass(frozen=True, slots=True)
class Shortage:
    """What there is too little of, and what to do about it."""

    what: What
    says: str
    mend: str

    @property
    def stops(self) -> bool:
        """Whether nothing new is stored; else it is, or the person is told."""
        return self.what != "waiting"

    def line(self) -> str:
        """As one line for people."""
        return f"{self.says}: {self.mend}"


@dataclass(frozen=True, slots=True)
class Memory:
    """The record's memory, in bytes; `limit` 0: none."""

    used: int
    limit: int


def shortages(settings: Settings, *, patience_s: float) -> list[Shortage]:
    """Everything that there is too little of; of a record that does not answer, only its disk is known."""
    found = shortage_of_disk(disk_of_record(settings))
    url = settings.redis_url.get_secret_value()
    try:
        with closing(Store(url, deadline_s=patience_s, timeout_s=patience_s)) as store:
            return [*found, *shortages_of_record(store, settings.waiting_limit)]
    except NO_ANSWER:
        return found


def shortage_of_disk(disk: Disk | None) -> list[Shortage]:
    """Whether the disk of the embedded record has less than must stay free. A disk of nobody has enough."""
    if disk is None:
        return []
    try:
        space = disk.look()
    except OSError as exc:
        return [Shortage("disk", f"the record's disk cannot be asked ({exc.strerror})", f"look at {disk.folder}")]
    if not space.short:
        return []
    says = f"the record's disk is full, {in_mb(space.free)} MB are free and {in_mb(space.reserve)} MB must stay so"
    return [Shortage("disk", says, f"make room on the disk of {disk.folder}; new messages wait until then")]


def shortages_of_record(store: Store, waiting_limit: int) -> list[Shortage]:
    """What the record itself says. Raises one of NO_ANSWER."""
    found = []
    try:
        for key in store.one_a_server([keys.waiting("inbox", shard) for shard in range(keys.SHARDS)]):
            store.run("room", [key], [PADDING])
    except StoreFull as exc:
        found.append(_memory_full(store) if exc.what == "memory" else _cannot_write(exc))
    waiting = count_items(store, "inbox")
    if waiting >= waiting_limit:
        says = f"{waiting} messages wait, {waiting_limit} may: people are told to come back"
        mend = "add workers (such as switchyard scale text=2) or raise SWITCHYARD_WAITING_LIMIT"
        found.append(Shortage("waiting", says, mend))
    return found


def memory_of(store: Store) -> Memory | None:
    """How much memory the record uses and may use, on all its servers together; None if it does not tell."""
    try:
        told = [server.info("memory") for server in store.servers()]
    except (RedisError, StoreUnavailable):
        return None
    used, limits = (sum(int(one.get(name, 0)) for one in told) for name in ("used_memory", "maxmemory"))
    return Memory(used=used, limit=limits)


def _memory_full(store: Store) -> Shortage:
    memory = memory_of(store)
    used = f", {in_mb(memory.used)} of {in_mb(memory.limit)} MB are used" if memory else ""
    mend = "raise SWITCHYARD_RECORD_MEMORY_MB, or maxmemory of a server of your own; new messages wait until then"
    return Shortage("memory", f"the record's memory is full{used}", mend)


def _cannot_write(exc: StoreFull) -> Shortage:
    return Shortage("disk", f"the record cannot write ({exc})", "make room on its disk; new messages wait until then")
