"""The listener as a process runs it: settings in, two connections up, ready once, clean at the stop."""

import asyncio
import time
from typing import Any

import pytest

from app import listener
from app.channels.dingtalk.connection import Timing
from app.errors import StoreUnavailable
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
