"""The one loop: nothing is acknowledged before it is stored, and a conversation keeps its order."""

import asyncio
import time
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.channels.dingtalk.connection import Delivery
from app.channels.dingtalk.messages import Frame, decode
from app.errors import MalformedFrame, StoreUnavailable
from app.listener import Listener
from tests.app.channels.dingtalk.frames import a_callback, a_frame
from tests.app.channels.dingtalk.streams import QUICK, Store, until


class Socket:
    """The part of a connection that a delivery uses."""

    def __init__(self, name: str = "one") -> None:
        self.name = name
        self.sent: list[str] = []
        self.freed = 0

    async def send(self, text: str) -> None:
        self.sent.append(text)

    def free(self, frame: Frame) -> None:
        self.freed += 1

    def brings(self, listener: Listener, **changes: Any) -> None:
        frame = decode(a_frame(a_callback(**changes)))
        listener.receive(Delivery(frame, self, time.time()))  # type: ignore[arg-type]


class Running:
    """A listener on a store, running while the test does."""

    def __init__(self, store: Store, *, finish_s: float = 5.0, **options: Any) -> None:
        self.store = store
        self.finish_s = finish_s
        self.listener = Listener(store.accept, **{"dedupe_s": 86_400.0, "delays": QUICK, **options})
        self.task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Listener:
        self.task = asyncio.create_task(self.listener.run())
        return self.listener

    async def __aexit__(self, *_: object) -> None:
        assert self.task
        self.store.open.set()
        await self.listener.finish(self.finish_s)
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def test_an_unstored_frame_is_kept_and_tried_until_it_is_stored() -> None:
    """Whether the platform delivers again is disputed: the listener does not rely on it."""
    store, socket = Store(), Socket()
    store.failures = [StoreUnavailable("down")] * 3
    with capture_logs() as logs:
        async with Running(store) as listener:
            socket.brings(listener, msgId="m1")
            await until(lambda: socket.sent)

    assert (store.tries, len(store.stored), len(socket.sent)) == (4, 1, 1)
    assert [entry["event"] for entry in logs].count("the store answers again") == 1


async def test_one_conversation_keeps_its_order_whatever_socket_brings_it() -> None:
    store, sockets = Store(), [Socket("one"), Socket("two")]
    store.failures, sent_ms = [StoreUnavailable("down")] * 5, int(time.time() * 1000)
    async with Running(store) as listener:
        for n in range(20):
            sockets[n % 2].brings(listener, msgId=f"m{n}", text={"content": str(n)}, createAt=sent_ms)
        await until(lambda: len(store.stored) == 20)
        await until(lambda: sum(len(socket.sent) for socket in sockets) == 20)

    assert store.texts == [str(n) for n in range(20)]
    assert [len(socket.sent) for socket in sockets] == [10, 10]
    assert store.most == 1


async def test_conversations_do_not_wait_for_each_other() -> None:
    store, socket = Store(), Socket()
    store.open.clear()
    async with Running(store) as listener:
        for n in range(10):
            socket.brings(listener, msgId=f"m{n}", senderId=f"$:{n}")
        await until(lambda: store.running == 10)


async def test_beyond_the_limit_frames_wait_unacknowledged() -> None:
    store, socket = Store(), Socket()
    store.open.clear()
    async with Running(store, max_in_accept=8) as listener:
        for n in range(50):
            socket.brings(listener, msgId=f"m{n}", senderId=f"$:{n}")
        await until(lambda: store.running == 8)
        assert socket.sent == []
        store.open.set()
        await until(lambda: len(socket.sent) == 50)

    assert (store.most, socket.freed) == (8, 50)


@pytest.mark.parametrize(
    ("changes", "count"),
    [({"msgId": None}, "malformed"), ({"createAt": 1_000}, "old"), ({"senderId": "$:LWCP_v1:$botenc=="}, "own")],
)
async def test_what_needs_no_answer_is_acknowledged_counted_and_dropped(changes: dict[str, Any], count: str) -> None:
    store, socket = Store(), Socket()
    async with Running(store) as listener:
        socket.brings(listener, **changes)
        await until(lambda: socket.sent)

    assert store.stored == []
    assert getattr(listener.counts, count) == 1


class StuckSocket(Socket):
    """A socket whose peer reads nothing any more: its buffer is full."""

    async def send(self, text: str) -> None:
        await asyncio.Event().wait()


async def test_an_ack_that_gets_stuck_stops_nobody_else() -> None:
    store, stuck, socket = Store(), StuckSocket(), Socket()
    async with Running(store, finish_s=0.1) as listener:
        stuck.brings(listener, msgId=None)
        stuck.brings(listener, createAt=1_000)
        socket.brings(listener, msgId="m1", text={"content": "served"})
        await until(lambda: socket.sent)

    assert store.texts == ["served"]
    assert stuck.freed == 2


async def test_frames_that_are_dropped_need_room_like_the_others() -> None:
    store, stuck = Store(), StuckSocket()
    async with Running(store, finish_s=0.1, max_in_accept=8) as listener:
        for _ in range(50):
            stuck.brings(listener, msgId=None)
        await until(lambda: listener.counts.malformed == 8)
        await asyncio.sleep(0)
        assert listener.counts.malformed == 8


async def test_a_bug_behind_accept_costs_its_own_frame_only() -> None:
    store, socket = Store(), Socket()
    store.failures = [RuntimeError("bug"), MalformedFrame("odd")]
    async with Running(store) as listener:
        for n in range(3):
            socket.brings(listener, msgId=f"m{n}", text={"content": str(n)})
        await until(lambda: len(socket.sent) == 2)

    assert store.texts == ["2"]
    assert (socket.freed, listener.counts.failed, listener.counts.malformed) == (3, 1, 1)


async def test_a_stop_finishes_what_was_read_and_takes_nothing_new() -> None:
    store, socket = Store(), Socket()
    async with Running(store) as listener:
        store.open.clear()
        socket.brings(listener, msgId="m1", text={"content": "read"})
        await until(lambda: store.running)
        finishing = asyncio.create_task(listener.finish(5))
        await asyncio.sleep(0)
        socket.brings(listener, msgId="m2", text={"content": "late"})
        store.open.set()
        await finishing

    assert (store.texts, len(socket.sent), socket.freed) == (["read"], 1, 2)


async def test_a_stop_does_not_wait_for_a_store_that_is_gone() -> None:
    store, socket = Store(), Socket()
    store.failures = [StoreUnavailable("down")] * 10_000
    async with Running(store, finish_s=0.1) as listener:
        socket.brings(listener)
        await until(lambda: store.tries)

    assert socket.sent == []
