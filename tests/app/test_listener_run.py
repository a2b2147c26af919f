"""The listener as a process runs it: settings in, two connections up, ready once, clean at the stop."""

import asyncio
import time
from typing import Any

import pytest

from app import keys, listener
from app.channels.dingtalk.connection import Timing
from app.errors import StoreUnavailable
from app.listening import tell_connected
from app.redis import AsyncStore
from app.redis import Store as Record
from app.settings import Settings
from sandbox.client import SandboxClient
from sandbox.process import Sandbox, running_sandbox
from tests.app.channels.dingtalk.streams import Store, listening, until


@pytest.fixture(scope="module")
def sandbox() -> Any:
    with running_sandbox() as running:
        yield running


@pytest.fixture
def platform(sandbox: Sandbox) -> Any:
    with SandboxClient(sandbox.url) as client:
        client.reset()
        yield client


@pytest.fixture
def settings(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in sandbox.environment().items():
        monkeypatch.setenv(name, value)
    return Settings(_env_file=None)


async def test_two_connections_are_held_and_closed_and_ready_is_said_once(
    settings: Settings, platform: SandboxClient
) -> None:
    store, stop, ready = Store(), asyncio.Event(), []
    running = asyncio.create_task(listener.run(settings, store.accept, lambda: ready.append("up"), stop))

    await until(lambda: len(platform.connections()) == 2)
    await asyncio.to_thread(platform.send_many, [{"text": str(n), "sender": "ann"} for n in range(20)])
    await until(lambda: len(platform.log(0, "acked")) == 20)
    stop.set()
    await asyncio.wait_for(running, 10)

    assert ready == ["up"]
    assert sorted(store.texts, key=int) == [str(n) for n in range(20)]
    assert [event["code"] for event in platform.log(0, "closed")] == [1000, 1000]


async def test_an_outage_of_the_store_loses_nothing_and_what_waited_is_in_order(
    sandbox: Sandbox, platform: SandboxClient
) -> None:
    """Two sockets bring one person's messages in any order; only the one that is being stored has its place already."""
    store, sent_ms = Store(), int(time.time() * 1000)
    store.failures = [StoreUnavailable("down")] * 30
    store.open.clear()
    async with listening(sandbox, store, count=2) as (listener, _):
        messages = [{"text": f"{n}", "sender": f"s{n % 5}", "createAt": sent_ms + n} for n in range(60)]
        await asyncio.to_thread(platform.send_many, messages)
        await until(lambda: listener.waiting == 60)
        store.open.set()
        await until(lambda: len(platform.log(0, "acked")) == 60)

    for person in range(5):
        _, *waited = [int(text) for text in store.texts if int(text) % 5 == person]
        assert waited == sorted(waited)
        assert len(waited) == 11


async def test_a_socket_is_not_read_beyond_its_bound_and_goes_on_afterwards(
    sandbox: Sandbox, platform: SandboxClient
) -> None:
    """A store that is down for long must not fill this process; the platform keeps what we do not read."""
    store = Store()
    store.open.clear()
    timing = Timing(held_frames=20, ping_every_s=0.05, pong_within_s=0.05, close_s=0.5)
    async with listening(sandbox, store, timing=timing, max_in_accept=5) as (_, (stream,)):
        messages = [{"text": f"{n}", "sender": f"s{n}", "conversation": f"c{n}"} for n in range(200)]
        await asyncio.to_thread(platform.send_many, messages)
        await until(lambda: store.running == 5)
        await asyncio.sleep(0.5)
        assert stream.state().reconnects == 0
        store.open.set()
        await until(lambda: len(platform.log(0, "acked")) == 200)

    assert (store.most, len(store.stored)) == (5, 200)


async def test_the_record_hears_of_a_connection_before_the_listener_is_ready(
    settings: Settings, platform: SandboxClient, store: Record, valkey_url: str
) -> None:
    """Readiness is asked as soon as everything says ready."""
    record, stop, lasts_ms = AsyncStore(valkey_url), asyncio.Event(), []
    running = asyncio.create_task(
        listener.run(
            settings,
            Store().accept,
            lambda: lasts_ms.append(store.client.pttl(keys.listening("here"))),
            stop,
            tell=lambda: tell_connected(record, "here"),
        )
    )

    await until(lambda: lasts_ms)
    stop.set()
    await asyncio.wait_for(running, 10)
    await record.close()

    assert 0 < lasts_ms[0] <= 10_000


async def test_a_record_that_is_down_delays_ready_and_ends_nothing(settings: Settings, platform: SandboxClient) -> None:
    stop, ready, tries = asyncio.Event(), [], []

    async def tell() -> None:
        tries.append("told")
        if len(tries) < 4:
            raise StoreUnavailable("down")

    running = asyncio.create_task(listener.run(settings, Store().accept, lambda: ready.append("up"), stop, tell=tell))
    await until(lambda: ready)
    stop.set()
    await asyncio.wait_for(running, 10)

    assert len(tries) >= 4


async def test_nothing_is_told_while_no_stream_is_connected(sandbox: Sandbox, platform: SandboxClient) -> None:
    told: list[str] = []

    async def tell() -> None:
        told.append("connected")

    async with listening(sandbox, Store()) as (_, streams):
        telling = asyncio.create_task(listener.tell_while_connected(streams, tell, every_s=0.01))
        await until(lambda: len(told) > 2)
        platform.answer("/v1.0/gateway/connections/open", "unavailable", times=1000, retry_after_s=0)
        await asyncio.to_thread(lambda: platform.fault("drop"))
        await until(lambda: streams[0].state().connected_since is None)
        before = len(told)
        await asyncio.sleep(0.2)
        after = len(told)
        telling.cancel()

    assert after - before <= 1  # the one that was under way
