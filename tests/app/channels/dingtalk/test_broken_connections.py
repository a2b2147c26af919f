"""Whatever a network or the platform does to connections, what was handed over is stored or stays unacknowledged.

Judged by the platform's log. The platform pushes again what was not acknowledged, as DingTalk may or may not do.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from app.channels.dingtalk.connection import Timing
from app.channels.dingtalk.stream import Delays
from sandbox.client import SandboxClient
from sandbox.process import Sandbox
from tests.app.channels.dingtalk.streams import Jumping, Store, listening, until
from tests.tunnel import Tunnel, tunnel

OPEN = "/v1.0/gateway/connections/open"
PATIENCE_S = 60.0
IMPATIENT = Timing(open_s=2.0, ping_every_s=0.1, pong_within_s=0.3, close_s=0.3)
PAUSES_SHOW = Delays(first_s=600.0, short_s=0.05)  # whoever pauses before another attempt does not come back in a test


@pytest.fixture
async def network(sandbox: Sandbox) -> AsyncIterator[Tunnel]:
    """What lies between us and the platform."""
    with tunnel(sandbox.url) as network:
        yield network


def behind(network: Tunnel, sandbox: Sandbox) -> Sandbox:
    """The platform as we see it through that network."""
    return replace(sandbox, url=network.url)


async def say(platform: SandboxClient, start: int, count: int) -> list[str]:
    """Messages of `count` people; their ids."""
    messages = [{"text": f"{n}", "sender": f"s{n}", "conversation": f"c{n}"} for n in range(start, start + count)]
    return [told["msgId"] for told in await asyncio.to_thread(platform.send_many, messages)]


def stored(store: Store) -> set[str]:
    return {message.id.rpartition(":")[2] for message in store.stored}


def acked(platform: SandboxClient) -> set[str]:
    return {event["msgId"] for event in platform.log(0, "acked")}


async def all_stored_and_acked(platform: SandboxClient, store: Store, ids: list[str]) -> None:
    """Wait for it. Nothing that is not stored may be acknowledged, at any moment on the way."""

    def settled() -> bool:
        told = acked(platform)
        assert told <= stored(store)
        return told == set(ids)

    await until(settled, PATIENCE_S)
    assert platform.log(0, "bad_ack") == []


def connections(platform: SandboxClient) -> list[dict[str, Any]]:
    """Those that get pushes."""
    return [one for one in platform.connections() if not one["retired"]]


BREAKS: dict[str, Callable[[SandboxClient, Tunnel], object]] = {
    "closed": lambda platform, network: platform.fault("drop"),
    "reset by the platform": lambda platform, network: platform.fault("drop", reset=True),
    "torn by the platform": lambda platform, network: platform.fault("tear"),
    "neither pongs nor closes": lambda platform, network: platform.fault("zombie"),
    "half-open": lambda platform, network: network.swallow(),
    "reset by the network": lambda platform, network: network.reset(),
    "torn by the network": lambda platform, network: network.tear("down"),
    "torn in our own frame": lambda platform, network: network.tear("up"),
}


@pytest.mark.parametrize("name", BREAKS)
async def test_a_connection_that_breaks_under_load_loses_nothing(
    sandbox: Sandbox, platform: SandboxClient, network: Tunnel, name: str
) -> None:
    store = Store()
    platform.fault("redeliver_unacked", after_s=0.3)
    async with listening(behind(network, sandbox), store, count=2, timing=IMPATIENT) as (_, streams):
        ids = await say(platform, 0, 20)
        await asyncio.to_thread(BREAKS[name], platform, network)
        ids += await say(platform, 20, 20)
        await until(lambda: all(stream.state().reconnects for stream in streams), PATIENCE_S)
        ids += await say(platform, 40, 10)

        await all_stored_and_acked(platform, store, ids)
        await until(lambda: len(connections(platform)) >= 2, PATIENCE_S)


async def test_goodbyes_one_after_another_never_leave_us_without_a_connection(
    sandbox: Sandbox, platform: SandboxClient
) -> None:
    """The next goodbye comes as soon as both are up again, and each open takes its time."""
    assert Delays().short_s < 3  # who lives for a few seconds is replaced without a pause
    store, ids = Store(), []
    async with listening(sandbox, store, count=2, delays=PAUSES_SHOW):
        platform.fault("slow_open", delay_ms=250, times=None)
        told = platform.last()
        for number in range(6):
            oldest = connections(platform)[0]["connection"]
            await asyncio.to_thread(platform.fault, "disconnect", connection=oldest, close_after_s=0.1)
            ids += await say(platform, 10 * number, 10)
            await until(lambda: len(connections(platform)) == 2, PATIENCE_S)
        await all_stored_and_acked(platform, store, ids)

        assert platform.log(told, "uncovered", "unpushed") == []
        assert len(platform.log(told, "connected")) == 6


async def test_connections_that_were_opened_together_do_not_grow_old_together(
    sandbox: Sandbox, platform: SandboxClient
) -> None:
    """A platform that ends connections by their age would end all of them in the same moment."""
    store = Store()
    async with listening(sandbox, store, count=3, first_life_s=0.2, delays=PAUSES_SHOW) as (_, streams):
        told = platform.last()
        ids = await say(platform, 0, 20)
        await until(lambda: [stream.state().reconnects for stream in streams] == [0, 1, 1], PATIENCE_S)
        await until(lambda: len(platform.connections()) == 3, PATIENCE_S)
        await all_stored_and_acked(platform, store, ids)

        assert platform.log(told, "uncovered") == []


async def test_what_was_under_way_at_a_stop_is_stored(
    sandbox: Sandbox, platform: SandboxClient, network: Tunnel
) -> None:
    """Our close and the platform's pushes cross on the way; whether it would push again is disputed."""
    store = Store()

    async def let_through() -> None:
        await until(lambda: platform.log(0, "closed"), PATIENCE_S)
        network.go_on()

    async with listening(behind(network, sandbox), store, timing=Timing(close_s=7.0)):
        network.hold("down")
        ids = await say(platform, 0, 10)
        crossing = asyncio.create_task(let_through())
    await crossing

    assert stored(store) == set(ids)
    assert acked(platform) == set()
    assert [event["code"] for event in platform.log(0, "closed")] == [1000]


async def test_a_gateway_that_is_down_for_long_is_asked_until_it_is_back(
    sandbox: Sandbox, platform: SandboxClient
) -> None:
    """A minute of 503s with the delays of production, in short; then a refusal that looks like wrong credentials."""
    store = Store()
    platform.fault("redeliver_unacked", after_s=0.2)
    async with listening(sandbox, store, count=2) as (_, streams):
        ids = await say(platform, 0, 10)
        platform.fault("refuse_open", times=30)
        platform.answer(OPEN, "rejected", times=4)
        await asyncio.to_thread(platform.fault, "drop")
        await until(lambda: not any(stream.state().connected_since for stream in streams), PATIENCE_S)
        ids += await say(platform, 10, 10)
        await until(lambda: len(connections(platform)) == 2, PATIENCE_S)
        ids += await say(platform, 20, 10)

        await all_stored_and_acked(platform, store, ids)

    assert len(platform.log(0, "refused")) == 34


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0])
async def test_a_clock_that_jumps_costs_no_message(sandbox: Sandbox, platform: SandboxClient, jump_s: float) -> None:
    """The machine slept, or somebody set its clock: another connection is opened first, in case this one is well."""
    store, clock = Store(), Jumping()
    timing = Timing(check_every_s=0.02, close_s=0.5)
    async with listening(sandbox, store, timing=timing, clock=clock, delays=PAUSES_SHOW) as (_, (stream,)):
        platform.fault("redeliver_unacked", after_s=1.0, times=1000)  # what a socket brings as it closes
        told = platform.last()
        ids = await say(platform, 0, 10)
        clock.ahead = jump_s
        ids += await say(platform, 10, 10)
        await until(lambda: stream.state().reconnects, PATIENCE_S)
        ids += await say(platform, 20, 10)

        await all_stored_and_acked(platform, store, ids)
        assert platform.log(told, "uncovered", "unpushed") == []


async def test_an_open_that_hangs_is_given_up(sandbox: Sandbox, platform: SandboxClient) -> None:
    platform.fault("slow_open", delay_ms=3_600_000, times=3)
    store = Store()

    async with listening(sandbox, store, timing=Timing(open_s=0.2, close_s=0.5)):
        ids = await say(platform, 0, 1)
        await all_stored_and_acked(platform, store, ids)


async def test_a_network_that_stands_still_while_we_connect_is_given_up(
    sandbox: Sandbox, platform: SandboxClient, network: Tunnel
) -> None:
    store = Store()
    async with listening(behind(network, sandbox), store, timing=replace(IMPATIENT, open_s=0.3)) as (_, (stream,)):
        network.hold()
        await asyncio.to_thread(platform.fault, "drop")
        await until(lambda: stream.state().connected_since is None, PATIENCE_S)
        network.go_on()
        await until(lambda: stream.state().connected_since, PATIENCE_S)
        ids = await say(platform, 0, 5)
        platform.fault("redeliver_unacked", after_s=0.3)
        ids += await say(platform, 5, 5)

        await all_stored_and_acked(platform, store, ids)


async def test_a_ticket_that_is_too_old_costs_another_one(sandbox: Sandbox, platform: SandboxClient) -> None:
    store = Store()
    async with listening(sandbox, store):
        platform.rules(ticket_s=0)
        await asyncio.to_thread(platform.fault, "drop")
        await until(lambda: len(platform.log(0, "refused")) >= 3, PATIENCE_S)
        platform.rules(ticket_s=90)
        await until(lambda: connections(platform), PATIENCE_S)

        await all_stored_and_acked(platform, store, await say(platform, 0, 5))


async def test_a_connection_that_was_told_to_go_does_not_count_as_one(
    sandbox: Sandbox, platform: SandboxClient
) -> None:
    """Readiness must not call us connected while the platform pushes nothing and opens nothing."""
    async with listening(sandbox, Store()) as (_, (stream,)):
        platform.fault("refuse_open")
        await asyncio.to_thread(platform.fault, "disconnect", close_after_s=60)

        await until(lambda: stream.state().connected_since is None, PATIENCE_S)
