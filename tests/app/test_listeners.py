"""Listeners and their record: a network between them that breaks, and two listeners that share one record."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from app import keys
from app.acceptance import Limits
from app.mailbox import Lease, Mailbox
from app.message import Message, conversation_id
from app.redis import AsyncStore
from app.redis import Store as Record
from app.routing import Dispatcher
from sandbox.client import SandboxClient
from sandbox.process import Sandbox, running_sandbox
from tests.app.channels.dingtalk.streams import Store, listening, until
from tests.tunnel import Tunnel, tunnel

PATIENCE_S = 60.0


class Recorded(Store):
    """An accept into a real record."""

    def __init__(self, record: AsyncStore) -> None:
        super().__init__()
        self._dispatcher = Dispatcher(record, Limits(), wake=lambda queue, conversation: None, say=lambda key: key)

    async def accept(self, message: Message) -> None:
        await self._dispatcher.dispatch(message)


@pytest.fixture(scope="module")
def sandbox() -> Any:
    with running_sandbox() as running:
        yield running


@pytest.fixture
def platform(sandbox: Sandbox) -> Any:
    with SandboxClient(sandbox.url) as client:
        client.clear_faults()
        client.reset()
        yield client


@asynccontextmanager
async def a_listener(sandbox: Sandbox, record_url: str, count: int = 1) -> AsyncIterator[None]:
    """A listener with a record of its own, as on another machine."""
    record = AsyncStore(record_url, deadline_s=0.5, timeout_s=0.5)
    try:
        async with listening(sandbox, Recorded(record), count=count):
            yield
    finally:
        await record.close()


def conversation_of(sandbox: Sandbox, person: str) -> str:
    return conversation_id("dingtalk", sandbox.client_id, f"cid-{person}=", f"$:LWCP_v1:${person}==")


def said(person: str, number: int) -> dict[str, Any]:
    return {"text": f"{number}", "sender": person, "conversation": f"cid-{person}=", "staff": person}


def waiting(store: Record, sandbox: Sandbox, person: str) -> list[str]:
    """What a person's inbox holds, in order."""
    packed: Any = store.client.lrange(keys.items("inbox", conversation_of(sandbox, person)), 0, -1)
    return [msgspec.json.decode(msgspec.msgpack.decode(one)["body"])["text"] for one in packed]


def acked(platform: SandboxClient) -> int:
    return len(platform.log(0, "acked"))


async def test_a_network_that_breaks_before_the_record_costs_time_and_nothing_else(
    sandbox: Sandbox, platform: SandboxClient, store: Record, valkey_url: str
) -> None:
    """Reset, cut in a call or in its answer, half-open, delayed beyond every deadline: stored once, and acked then."""
    people = [f"p{number}" for number in range(10)]

    def break_it(network: Tunnel, number: int) -> None:
        (network.reset, lambda: network.tear("up"), lambda: network.tear("down"), network.swallow)[number % 4]()

    with tunnel(valkey_url) as network:
        async with a_listener(sandbox, network.url, count=2):
            for number in range(8):
                await asyncio.to_thread(platform.send_many, [said(person, number) for person in people])
                break_it(network, number)
            await until(lambda: acked(platform) == 80, PATIENCE_S)
            network.hold()
            await asyncio.to_thread(platform.send_many, [said(person, 8) for person in people])
            await asyncio.sleep(1.2)  # more than twice the deadline of a call
            while_it_stood_still = acked(platform)
            network.go_on()
            await until(lambda: acked(platform) == 90, PATIENCE_S)
            assert network.connections >= 6  # so many were broken

    assert while_it_stood_still == 80
    for person in people:
        assert sorted(waiting(store, sandbox, person), key=int) == [str(number) for number in range(9)]
    assert platform.log(0, "bad_ack") == []


async def test_two_listeners_take_a_redelivery_once(
    sandbox: Sandbox, platform: SandboxClient, store: Record, valkey_url: str
) -> None:
    """The platform may deliver again to the other machine what the first one has acknowledged."""
    async with a_listener(sandbox, valkey_url), a_listener(sandbox, valkey_url):
        everywhere = [{**said("ann", 0), "connection": "all", "redeliveries": 4, "redeliver_after_s": 0.1}]
        everywhere += [{**said(f"p{number}", 0), "redeliveries": 2, "redeliver_after_s": 0.1} for number in range(10)]
        await asyncio.to_thread(platform.send_many, everywhere)
        await until(lambda: acked(platform) == 6 + 30, PATIENCE_S)

    assert len({event["connection"] for event in platform.log(0, "acked")}) == 2
    assert [waiting(store, sandbox, person) for person in ("ann", "p0", "p9")] == [["0"]] * 3


async def test_what_waits_has_the_order_of_sending_whichever_listener_brought_it(
    sandbox: Sandbox, platform: SandboxClient, store: Record, valkey_url: str, inbox: Mailbox
) -> None:
    """While a turn runs, quick messages over the sockets of two machines."""
    sent_ms = int(time.time() * 1000)
    async with a_listener(sandbox, valkey_url), a_listener(sandbox, valkey_url):
        await asyncio.to_thread(platform.send_text, **said("ann", 0), createAt=sent_ms)
        await until(lambda: acked(platform) == 1, PATIENCE_S)
        running = inbox.lease(conversation_of(sandbox, "ann"), "text")
        quick = [{**said("ann", n), "createAt": sent_ms + n, "connection": n % 2} for n in range(1, 12)]
        await asyncio.to_thread(platform.send_many, quick)
        await until(lambda: acked(platform) == 12, PATIENCE_S)

    assert isinstance(running, Lease)
    assert waiting(store, sandbox, "ann") == [str(number) for number in range(12)]


async def test_one_that_was_overtaken_between_two_listeners_is_next(
    sandbox: Sandbox, platform: SandboxClient, store: Record, valkey_url: str, inbox: Mailbox
) -> None:
    """No listener knows what another one is still storing: whoever's turn has begun by then keeps it."""
    sent_ms = int(time.time() * 1000)
    first, second, third = ({**said("ann", number), "createAt": sent_ms + number} for number in range(3))
    with tunnel(valkey_url) as slow:
        async with a_listener(sandbox, slow.url), a_listener(sandbox, valkey_url):
            slow.hold()
            await asyncio.to_thread(platform.send_many, [{**first, "connection": 0}, {**second, "connection": 1}])
            await until(lambda: acked(platform) == 1, PATIENCE_S)
            running = inbox.lease(conversation_of(sandbox, "ann"), "text")
            await asyncio.to_thread(platform.send_text, **third, connection=1)
            await until(lambda: acked(platform) == 2, PATIENCE_S)
            slow.go_on()
            await until(lambda: acked(platform) == 3, PATIENCE_S)

    assert isinstance(running, Lease)
    assert waiting(store, sandbox, "ann") == ["1", "0", "2"]
