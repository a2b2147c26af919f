"""One connection's life against a whole platform: acks, goodbyes, deaths, and what never kills it."""

import asyncio
import json
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.channels.dingtalk.connection import Pulse, Timing, answer_other
from app.channels.dingtalk.messages import decode
from app.channels.dingtalk.stream import BackOff, Delays
from sandbox.client import SandboxClient
from sandbox.process import Sandbox
from tests.app.channels.dingtalk.frames import a_frame
from tests.app.channels.dingtalk.streams import QUICK, Jumping, Store, listening, until


def acks(platform: SandboxClient) -> list[dict[str, Any]]:
    return platform.log(0, "acked")


def ends(platform: SandboxClient) -> list[int]:
    return [event["code"] for event in platform.log(0, "closed")]


async def say(platform: SandboxClient, text: str, **message: Any) -> None:
    await asyncio.to_thread(lambda: platform.send_text(text, **message))


async def test_a_message_is_stored_and_then_acknowledged(sandbox: Sandbox, platform: SandboxClient) -> None:
    store = Store()
    async with listening(sandbox, store) as (_, (stream,)):
        await say(platform, " hello ")
        await until(lambda: acks(platform))
        state = stream.state()

    assert store.texts == ["hello"]
    assert state.last_message_at
    assert (acks(platform)[0]["data"], platform.log(0, "bad_ack")) == ({"response": None}, [])


async def test_a_stop_closes_every_socket_with_1000(sandbox: Sandbox, platform: SandboxClient) -> None:
    async with listening(sandbox, Store(), count=3):
        assert len(await asyncio.to_thread(platform.connections)) == 3

    assert await asyncio.to_thread(platform.connections) == []
    assert ends(platform) == [1000, 1000, 1000]


async def test_system_frames_are_answered_while_the_store_hangs(sandbox: Sandbox, platform: SandboxClient) -> None:
    """300 frames wait, 256 of them in accept; a ping behind them is answered all the same."""
    store = Store()
    store.open.clear()
    messages = [{"text": "x", "sender": f"s{n}", "conversation": f"c{n}"} for n in range(300)]
    async with listening(sandbox, store):
        await asyncio.to_thread(platform.send_many, messages)
        await until(lambda: store.running == 256)
        await asyncio.to_thread(platform.system, "ping")
        await until(lambda: any(event["topic"] == "ping" for event in platform.log(0, "answered")))
        assert acks(platform) == []
        store.open.set()
        await until(lambda: len(acks(platform)) == 300)

    assert (store.most, platform.log(0, "bad_ack")) == (256, [])


@pytest.mark.parametrize(
    ("kind", "topic", "code", "data"),
    [
        ("EVENT", "*", 200, {"status": "SUCCESS", "message": ""}),
        ("CALLBACK", "/v1.0/card/instances/callback", 200, {"response": {}}),
        ("CALLBACK", "/v1.0/im/bot/messages/delegate", 404, {"response": None}),
    ],
)
async def test_frames_of_other_topics_get_their_own_ack(kind: str, topic: str, code: int, data: object) -> None:
    sent: list[str] = []

    async def send(text: str) -> None:
        sent.append(text)

    await answer_other(decode(a_frame("{}", id="other-1", type=kind, topic=topic)), send)

    answered = json.loads(sent[0])
    assert (answered["code"], json.loads(answered["data"])) == (code, data)
    assert answered["headers"]["messageId"] == "other-1"


async def test_a_goodbye_is_answered_by_a_new_socket_first(sandbox: Sandbox, platform: SandboxClient) -> None:
    """What is still owed on the old socket is acknowledged there, although a new one is up."""
    store = Store()
    async with listening(sandbox, store) as (_, (stream,)):
        store.open.clear()
        await say(platform, "before")
        await until(lambda: store.running)
        (old,) = platform.connections()

        await asyncio.to_thread(lambda: platform.fault("disconnect"))
        await until(lambda: len(platform.connections()) == 2)
        store.open.set()
        await until(lambda: len(platform.connections()) == 1)

        assert stream.state().reconnects == 1
    kinds = [event["kind"] for event in platform.log(0, "connected", "acked", "closed")]
    assert kinds[:4] == ["connected", "connected", "acked", "closed"]
    assert acks(platform)[0]["connection"] == old["connection"]


async def test_only_the_second_of_two_early_goodbyes_waits(sandbox: Sandbox, platform: SandboxClient) -> None:
    """A deployment says goodbye to young connections too; a platform that does so again and again is left in peace."""
    patient = Delays(first_s=60, short_s=60)
    async with listening(sandbox, Store(), delays=patient) as (_, (stream,)):
        await asyncio.to_thread(lambda: platform.fault("disconnect"))
        await until(lambda: stream.state().reconnects == 1 and len(platform.connections()) == 1)
        await asyncio.to_thread(lambda: platform.fault("disconnect"))
        await asyncio.sleep(0.3)

        assert stream.state().reconnects == 1


async def test_a_lost_socket_is_replaced(sandbox: Sandbox, platform: SandboxClient) -> None:
    store = Store()
    async with listening(sandbox, store) as (_, (stream,)):
        await asyncio.to_thread(lambda: platform.fault("drop"))
        await until(lambda: stream.state().reconnects == 1 and stream.state().connected_since)
        await say(platform, "again")
        await until(lambda: store.texts == ["again"])

    assert len(platform.log(0, "connected")) == 2


async def test_many_goodbyes_and_losses_leave_one_socket(sandbox: Sandbox, platform: SandboxClient) -> None:
    """Leaked sockets take a share of the messages with them."""
    store = Store()
    async with listening(sandbox, store) as (_, (stream,)):
        for n, fault in enumerate(["disconnect", "drop", "disconnect", "disconnect", "drop"], start=1):
            await until(lambda: stream.state().connected_since and platform.connections())
            await asyncio.to_thread(platform.fault, fault)
            await until(lambda n=n: stream.state().reconnects >= n)  # type: ignore[misc]
        await until(lambda: len(platform.connections()) == 1)
        await say(platform, "still here")
        await until(lambda: store.texts == ["still here"])

    assert await asyncio.to_thread(platform.connections) == []


async def test_a_stop_in_the_middle_of_connecting_leaves_nothing(sandbox: Sandbox, platform: SandboxClient) -> None:
    async with listening(sandbox, Store()):
        platform.fault("slow_open", delay_ms=300, times=1)
        opened = len(platform.log(0, "opened"))
        await asyncio.to_thread(lambda: platform.fault("disconnect"))
        await asyncio.sleep(0.1)

    await until(lambda: len(platform.log(0, "opened")) == opened + 1)
    assert await asyncio.to_thread(platform.connections) == []


async def test_a_socket_without_pong_is_dead(sandbox: Sandbox, platform: SandboxClient) -> None:
    timing = Timing(ping_every_s=0.05, pong_within_s=0.1, close_s=0.5)
    async with listening(sandbox, Store(), timing=timing) as (_, (stream,)):
        await asyncio.to_thread(lambda: platform.fault("zombie"))
        await until(lambda: stream.state().reconnects >= 1)


async def test_a_socket_that_only_pongs_is_left_after_its_heartbeats_stop(
    sandbox: Sandbox, platform: SandboxClient
) -> None:
    timing = Timing(silence_s=0.2, check_every_s=0.05, close_s=0.5)
    async with listening(sandbox, Store(), timing=timing) as (_, (stream,)):
        for _ in range(2):
            await asyncio.to_thread(platform.system, "KEEPALIVE")
        await asyncio.to_thread(lambda: platform.fault("zombie", pong=True))
        await until(lambda: stream.state().reconnects >= 1)


async def test_a_machine_that_slept_connects_anew(sandbox: Sandbox, platform: SandboxClient) -> None:
    clock, timing = Jumping(), Timing(check_every_s=0.02, close_s=0.5)
    async with listening(sandbox, Store(), timing=timing, clock=clock):
        clock.ahead = 60.0
        await until(lambda: len(platform.log(0, "connected")) == 2)
        await until(lambda: len(platform.connections()) == 1)


@pytest.mark.parametrize("fault", ["unavailable", "throttled", "timeout_before"])
async def test_a_gateway_that_is_down_is_asked_again(sandbox: Sandbox, platform: SandboxClient, fault: str) -> None:
    platform.answer("/v1.0/gateway/connections/open", fault, times=2, retry_after_s=0)

    async with listening(sandbox, Store()):
        refused = platform.log(0, "refused")

    assert len(refused) == 2


async def test_wrong_credentials_are_named_and_asked_slowly(sandbox: Sandbox, platform: SandboxClient) -> None:
    with capture_logs() as logs:
        async with listening(sandbox, Store(), secret="wrong", delays=Delays(refused_s=60)):
            await until(lambda: any("credentials or configuration" in entry["event"] for entry in logs))
            await asyncio.sleep(0.2)

    assert len(platform.log(0, "refused")) == 1
    assert "wrong" not in str(logs)


BAD_FRAMES: list[str | bytes] = [
    "x" * 10_000_000,
    "[" * 200_000,
    "",
    "null",
    b"\xff\xfe\x00",
    '{"type":"CALLBACK","headers":{"topic":7}}',
    '{"type":"NEW","headers":{}}',
    a_frame("nonsense"),
    a_frame('{"msgId":5}'),
    a_frame("[" * 100_000),
]


async def test_bad_frames_cost_a_log_line_and_no_connection(sandbox: Sandbox, platform: SandboxClient) -> None:
    store = Store()
    with capture_logs() as logs:
        async with listening(sandbox, store) as (listener, (stream,)):
            for frame in BAD_FRAMES:
                await asyncio.to_thread(platform.raw, frame)
            await say(platform, "good")
            await until(lambda: store.texts == ["good"])
            assert stream.state().reconnects == 0

    assert listener.counts.malformed == 3
    assert sum(entry["event"] == "frame refused" for entry in logs) == 6
    assert "nonsense" not in json.dumps(logs, default=str)


def test_a_pulse_is_armed_by_two_beats_only() -> None:
    """Absence of messages is no sign: a quiet night must not restart anything."""
    quiet, beating = Pulse(90), Pulse(90)
    quiet.frame(0)
    quiet.beat(0)
    for now in (0, 60):
        beating.frame(now)
        beating.beat(now)

    assert not quiet.silent(1e6)
    assert not beating.silent(60 + 179)
    assert beating.silent(60 + 181)


def test_delays_double_up_to_a_limit_and_start_anew() -> None:
    back_off = BackOff(Delays(), uniform=lambda low, high: high)

    delays = [back_off.next() for _ in range(8)]
    back_off.reset()

    assert delays == [1.2, 2.4, 4.8, 9.6, 19.2, 38.4, 72.0, 72.0]
    assert back_off.next() == 1.2
    assert BackOff(QUICK, uniform=lambda low, high: low).next() == pytest.approx(0.016)
