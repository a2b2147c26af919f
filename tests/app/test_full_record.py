"""A record whose memory is full takes nothing new, loses nothing, goes on with what it holds, and mends itself."""

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from app import keys
from app.acceptance import Limits, Outcome
from app.errors import StoreFull
from app.installation import check_record
from app.listener import MAX_IN_ACCEPT, Listener
from app.listening import tell_connected
from app.message import Message
from app.quota import MonthlyCalls
from app.redis import AsyncStore, Store
from app.room import PADDING, shortages_of_record
from app.routing import Dispatcher
from app.sweeper import Sweeper
from tests.app.channels.dingtalk.streams import QUICK, until
from tests.app.test_listener import Socket
from tests.samples import a_message
from tests.workers.desk import a_house, a_skill

LUA = Path(__file__).parents[2] / "app" / "lua"
GROWS = ("accept", "replay", "room")  # what makes the record grow, and what asks whether it may
Dispatch = Callable[[Message], Awaitable[object]]


@contextmanager
def full(store: Store) -> Iterator[None]:
    """No memory is left for anything new while the block runs."""
    store.client.config_set("maxmemory", "1")
    try:
        yield
    finally:
        store.client.config_set("maxmemory", "0")


def refusals(store: Store) -> int:
    """How often the server has said that its memory is full."""
    return int(store.client.info("errorstats").get("errorstat_OOM", {}).get("count", 0))


@pytest.fixture
async def dispatch(store: Store, valkey_url: str) -> AsyncIterator[Dispatch]:
    """What a listener calls for each message."""
    record = AsyncStore(valkey_url)
    yield Dispatcher(record, Limits(), wake=lambda queue, conversation: None, say=str).dispatch
    await record.close()


@pytest.mark.parametrize("file", sorted(LUA.glob("*.lua")), ids=lambda file: file.stem)
def test_every_script_but_accept_runs_on_a_full_record(file: Path) -> None:
    """So that what is there can leave. The server reads the first line."""
    first = file.read_text().partition("\n")[0]

    if file.stem != "shared":
        assert first.startswith("#!lua")
        assert ("allow-oom" in first) is (file.stem not in GROWS)


async def test_a_message_is_refused_at_once_and_taken_when_there_is_room(store: Store, dispatch: Dispatch) -> None:
    message = a_message()

    with full(store):
        with pytest.raises(StoreFull) as refusal:
            await dispatch(message)
        held_then = store.client.dbsize()
    accepted = await dispatch(message)

    assert refusal.value.what == "memory"
    assert held_then == 0  # its id is not remembered: it would be taken for a repeat
    assert accepted.outcome is Outcome.WAKE  # type: ignore[attr-defined]


async def test_the_listener_keeps_its_frames_says_it_once_and_stores_them_when_there_is_room(
    store: Store, dispatch: Dispatch
) -> None:
    listener, socket = Listener(dispatch, dedupe_s=86_400.0, delays=QUICK), Socket()
    running = asyncio.create_task(listener.run())
    with capture_logs() as logs:
        with full(store):
            for number in range(300):
                socket.brings(listener, msgId=f"m{number}", senderId=f"$:{number}")
            before = refusals(store)
            await until(lambda: refusals(store) >= before + 3 * MAX_IN_ACCEPT, within_s=60)
            acknowledged_while_full = len(socket.sent)
        await until(lambda: len(socket.sent) == 300, within_s=60)
        running.cancel()

    told = [entry["event"] for entry in logs]
    assert acknowledged_while_full == 0
    assert told == ["the record is full: frames are kept and tried again", "the store answers again"]
    assert listener.counts.accepted == 300


def test_what_waits_is_answered_and_sent_while_the_record_is_full(store: Store) -> None:
    """The whole way: lease, drafts, forward, commit, marks, the outbox. Also when the server forgot the scripts."""
    with a_house(store) as house:
        asked = house.gets(a_message(text="hello", sender="asks"))
        forwarded = house.gets(a_message(text="/help", sender="forwarded"), "text")
        failing = house.gets(a_message(text="/fails", sender="fails"))
        store.client.script_flush()

        with full(store):
            for queue, message in (("text", asked), ("text", forwarded), ("default", forwarded)):
                house.turn(message, queue)
            house.answers_with(a_skill(_raises, queue="default", commands=("fails",)))
            house.turn(failing, "default")
            for message in (asked, forwarded):
                house.deliver_all(message)

        assert house.items("inbox", asked) == house.items("outbox", asked) == []
        assert house.items("outbox", forwarded) == []
        assert house.head(failing)["raised"] == 1
        assert len(house.outlet.texts()) == 2
        assert "hello" in house.outlet.texts()[0]


def _raises(*_: object) -> str:
    raise ValueError("a bug of a skill")


async def test_what_keeps_the_house_running_goes_on_while_the_record_is_full(store: Store, valkey_url: str) -> None:
    """Else a full store would never drain: workers could not start, nobody would sweep, the listener look cut off."""
    check_record(store)
    record = AsyncStore(valkey_url)
    with a_house(store) as house, full(store):
        sweeper = Sweeper(store, [house.boxes.inbox], wake=house.wakes.wake, filled=list, interval_s=0.05)
        sweeper.start()
        check_record(store)
        month = MonthlyCalls(store, 10)
        month.count()
        await tell_connected(record, "here")
        await until(lambda: store.client.exists(keys.SWEEPER))
        sweeper.close()
        await until(lambda: "sweeper" not in {thread.name for thread in threading.enumerate()})

        assert month.used() == 1
        assert store.client.pttl(keys.listening("here")) > 0
        assert 0 < store.client.ttl(keys.calls(month._month())) <= 40 * 86_400
    await record.close()


def test_a_record_without_room_for_a_message_is_full(store: Store) -> None:
    """It is asked with the weight of a message: its last bytes are no room."""
    used = store.client.info("memory")["used_memory"]
    try:
        store.client.config_set("maxmemory", used + 16 * len(PADDING))
        assert shortages_of_record(store, 10_000) == []
        store.client.config_set("maxmemory", used + len(PADDING) // 4)
        (shortage,) = shortages_of_record(store, 10_000)
    finally:
        store.client.config_set("maxmemory", "0")

    assert (shortage.what, shortage.stops) == ("memory", True)
    assert re.search(
        r"the record's memory is full, \d+ of \d+ MB are used: raise SWITCHYARD_RECORD_MEMORY_MB", shortage.line()
    )
