"""A full disk under the embedded record: nothing new is stored, nothing that was acknowledged is lost, and it mends."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis

from app import keys
from app.acceptance import Limits, Outcome
from app.disk import MB, Disk, DiskGuard, Reserve
from app.errors import StoreFull, StoreUnavailable
from app.message import Message
from app.redis import AsyncStore, Store
from app.room import shortage_of_disk, shortages_of_record
from app.routing import Dispatcher
from app.servers import EmbeddedServer, has_room, prepare
from tests.app.supervised import Supervised, eventually
from tests.samples import a_message
from tests.small_disk import SmallDisk, run_in_namespace, small_disk
from tests.valkey import valkey, wait_for_server

LIMIT_S = 60.0
NO_ROOM = "the disk is full, make room"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", 32) as disk:
        yield disk


async def test_nothing_is_accepted_beyond_the_reserve_and_everything_is_when_there_is_room(disk: SmallDisk) -> None:
    now = [0.0]
    guard = DiskGuard(Disk(disk.folder, Reserve(8 * MB, 0.1)), clock=lambda: now[0])
    await guard.require_room()

    disk.fill(leave=7 * MB)
    now[0] += 1
    with pytest.raises(StoreFull, match="7 MB are free") as refusal:
        await guard.require_room()
    (shortage,) = shortage_of_disk(Disk(disk.folder, Reserve(8 * MB, 0.1)))
    disk.make_room()
    now[0] += 1
    await guard.require_room()

    assert refusal.value.what == shortage.what == "disk"
    assert "7 MB are free and 8 MB must stay so: make room on the disk" in shortage.line()
    assert shortage_of_disk(Disk(disk.folder, Reserve(8 * MB, 0.1))) == []


class Record:
    """An embedded record on a small disk."""

    def __init__(self, disk: SmallDisk) -> None:
        self.server: EmbeddedServer = prepare("redis", disk.folder, to_start_bytes=4 * MB)
        self.process = self.start()

    def start(self) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(self.server.command, stdout=subprocess.DEVNULL)
        wait_for_server(self.server.url.get_secret_value())
        return process


@pytest.fixture
def record(disk: SmallDisk) -> Iterator[Record]:
    record = Record(disk)
    yield record
    record.process.kill()
    record.process.wait()


@pytest.fixture
async def dispatcher(record: Record) -> AsyncIterator[Dispatcher]:
    store = AsyncStore(record.server.url.get_secret_value(), deadline_s=0.2)
    yield Dispatcher(store, Limits(), wake=lambda queue, conversation: None, say=str)
    await store.close()


async def test_what_was_accepted_before_the_disk_was_full_is_there_after_the_restart(
    disk: SmallDisk, record: Record, dispatcher: Dispatcher
) -> None:
    """With every write on disk before its answer, the server ends at the first write that has no place."""
    disk.fill(leave=1 * MB)
    accepted = await accepted_until_it_ends(dispatcher)
    await asyncio.to_thread(record.process.wait, LIMIT_S)
    room_while_full = has_room(record.server)

    disk.make_room()
    record.process = record.start()

    async def again(message: Message) -> Outcome:
        return (await dispatcher.dispatch(message)).outcome

    assert (room_while_full, has_room(record.server)) == (False, True)
    assert len(accepted) > 100
    assert {await again(message) for message in accepted} == {Outcome.REPEAT}
    with closing(Store(record.server.url.get_secret_value())) as store:
        there = [store.client.exists(keys.items("inbox", message.conversation)) for message in accepted]
    assert all(there)
    assert await again(a_message(sender="$:late==")) is Outcome.WAKE


async def test_a_server_of_its_own_that_cannot_write_is_full_until_it_can(disk: SmallDisk) -> None:
    """Its disk is not ours to see, but it says so (MISCONF); whatever it refuses is repeated until it takes it."""
    with valkey(disk.folder, "--save", "3600 1", "--stop-writes-on-bgsave-error", "yes") as url:
        with closing(Store(url, deadline_s=0.2)) as store:
            store.client.set("some", os.urandom(2 * MB))
            disk.fill(leave=0)
            saves(store, "err")
            record = AsyncStore(url, deadline_s=0.2)
            dispatcher = Dispatcher(record, Limits(), wake=lambda queue, conversation: None, say=str)
            message = a_message()
            with pytest.raises(StoreFull, match="MISCONF") as refusal:
                await dispatcher.dispatch(message)
            (shortage,) = shortages_of_record(store, 10_000)

            disk.make_room()
            saves(store, "ok")
            accepted = await dispatcher.dispatch(message)
            assert shortages_of_record(store, 10_000) == []
        await record.close()

    assert refusal.value.what == shortage.what == "disk"
    assert "the record cannot write" in shortage.line()
    assert accepted.outcome is Outcome.WAKE


def saves(store: Store, ends: str) -> None:
    """Have the server save its data; it ends like this."""
    store.client.bgsave()

    def ended() -> bool:
        told = store.client.info("persistence")
        return not told["rdb_bgsave_in_progress"] and told["rdb_last_bgsave_status"] == ends

    eventually(ended, within_s=LIMIT_S)


async def accepted_until_it_ends(dispatcher: Dispatcher) -> list[Message]:
    """What the record took, one after another, before it did not answer any more."""
    accepted: list[Message] = []
    try:
        for number in range(100_000):
            message = a_message(text="x" * 1000, sender=f"$:p{number}==")
            await dispatcher.dispatch(message)
            accepted.append(message)
    except StoreUnavailable:
        return accepted
    raise AssertionError("the disk was never full")


@pytest.fixture
def supervised(disk: SmallDisk) -> Iterator[Callable[[], Supervised]]:
    """Start a supervisor whose data folder is on the small disk, and whose outputs are not."""
    started: list[Supervised] = []

    def start() -> Supervised:
        started.append(Supervised(disk.folder, settings={"SWITCHYARD_DISK_FREE_MB": "32"}))
        return started[-1]

    yield start
    for one in reversed(started):
        one.end()


def test_a_record_that_died_of_a_full_disk_starts_again_when_there_is_room_and_not_before(
    disk: SmallDisk, supervised: Callable[[], Supervised]
) -> None:
    """Else it would die again and again, and wait longer and longer in between."""
    running = supervised().until_ready()
    with running.client("redis") as client:
        client.set("kept", "x")

        disk.fill(leave=0)
        eventually(lambda: not _takes(client, "y" * 100_000), within_s=LIMIT_S)
        eventually(lambda: NO_ROOM in running.complained, within_s=LIMIT_S)
        states_while_full = [one["state"] for one in running.ps("redis")]
        disk.make_room()
        eventually(lambda: running.ready("redis"), within_s=LIMIT_S)

        assert states_while_full == ["restarting"]
        assert client.get("kept") == "x"
    assert running.complained.count(NO_ROOM) == 1


def test_what_an_unfinished_rewrite_left_behind_is_no_lack_of_room(
    disk: SmallDisk, supervised: Callable[[], Supervised]
) -> None:
    """A server that is killed while it rewrites its file leaves the new one, and never looks at it again."""
    running = supervised().until_ready()
    first, left = running.pid("redis"), disk.folder / "redis" / "temp-rewriteaof-1.aof"
    with running.client("redis") as client:
        disk.fill(leave=0, file=str(left))
        eventually(lambda: not _takes(client, "y" * 100_000), within_s=LIMIT_S)
        eventually(lambda: running.ready("redis") not in ([], [first]), within_s=LIMIT_S)

        assert _takes(client, "y" * 100_000)
    assert not left.exists()
    assert NO_ROOM not in running.complained


def test_a_supervisor_that_starts_on_a_full_disk_waits_for_room(
    disk: SmallDisk, supervised: Callable[[], Supervised]
) -> None:
    """After a power cut, for example: nobody has to start it a second time."""
    first = supervised().until_ready()
    first.kill()
    eventually(first.lock_is_free, within_s=LIMIT_S)
    disk.fill(leave=0)

    second = supervised()
    eventually(lambda: NO_ROOM in second.complained, within_s=LIMIT_S)
    disk.make_room()

    second.until_ready()


def _takes(client: "redis.Redis", value: str) -> bool:
    try:
        return bool(client.set("more", value))
    except redis.RedisError:
        return False


@pytest.mark.timeout(300)
def test_all_of_this_where_only_a_namespace_may_mount() -> None:
    run_in_namespace(__file__, marker="not failure")
