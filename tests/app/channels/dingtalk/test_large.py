"""Frames of 4 to 16 MB: acknowledged once, the person is told, and nothing of their size stays."""

import asyncio
import json
import tracemalloc
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.channels.dingtalk.messages import FRAME_LIMIT_BYTES, body, decode, parse
from app.errors import MalformedFrame
from sandbox.client import SandboxClient
from sandbox.process import Sandbox
from tests.app.channels.dingtalk.frames import a_callback, a_frame
from tests.app.channels.dingtalk.streams import Store, listening, until

HUGE = "\u5b57" * (FRAME_LIMIT_BYTES // 2)
NOW = 1_767_000_000.0


def test_a_large_message_keeps_its_sender_and_loses_its_content() -> None:
    small, large = (a_frame(a_callback(text={"content": text}), id="d-1") for text in ("x", HUGE))

    frame = decode(large)
    message = parse(body(frame), arrived_at=NOW)
    twin = parse(body(decode(small)), arrived_at=NOW)

    assert message is not None
    assert twin is not None
    assert (message.kind, message.platform_kind, message.text) == ("unsupported", "text.too_long", "")
    assert (message.id, message.conversation, message.address) == (twin.id, twin.conversation, twin.address)
    assert message.sent_at == twin.sent_at
    assert (frame.id, frame.size_bytes < 2_000) == ("d-1", True)
    assert decode(large.replace('"headers"', '"header"')).id == "d-1"


@pytest.mark.parametrize(
    "data",
    [a_callback(msgId=HUGE), a_callback(senderId={"deep": HUGE}), HUGE, "[" * FRAME_LIMIT_BYTES, "{" + HUGE],
    ids=["a huge id", "a huge sender", "no JSON", "deep JSON", "half an object"],
)
def test_a_large_frame_that_cannot_be_read_still_has_its_delivery_id(data: Any) -> None:
    """So it can be acknowledged: a redelivery would bring the same bytes."""
    frame = decode(a_frame(data, id="d-1"))

    assert (frame.id, frame.type) == ("d-1", "CALLBACK")
    with pytest.raises(MalformedFrame):
        parse(body(frame), arrived_at=NOW)


@pytest.mark.parametrize("raw", ["x" * 5_000_000, "[" * 5_000_000, '{"type":7,"data":"' + "x" * 5_000_000 + '"}'])
def test_a_large_thing_that_is_no_frame_is_refused(raw: str) -> None:
    with pytest.raises(MalformedFrame):
        decode(raw)


def test_reading_a_large_frame_takes_a_few_times_its_size_and_leaves_nothing() -> None:
    raw = a_frame(a_callback(text={"content": HUGE})).encode()
    tracemalloc.start()
    try:
        frame = decode(raw)
        left, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert frame.size_bytes < 2_000
    assert left < 100_000
    assert most < 4 * len(raw)


async def test_the_platform_delivers_a_large_message_once_and_the_others_go_on(
    sandbox: Sandbox, platform: SandboxClient
) -> None:
    store = Store()
    platform.fault("redeliver_unacked", after_s=3)

    def all_acked() -> bool:
        return len(platform.log(0, "acked")) == len(platform.log(0, "pushed"))

    with capture_logs() as logs:
        async with listening(sandbox, store) as (listener, (stream,)):
            for text in (HUGE, "a" * 15_000_000, "good"):
                await asyncio.to_thread(platform.send_text, text, sender=text[:4], staff=text[:4])
            await asyncio.to_thread(platform.callback, "{" + "x" * 5_000_000)
            await asyncio.to_thread(platform.callback, "x" * 5_000_000, type="EVENT", topic="*")
            await until(all_acked, 60)
            assert stream.state().reconnects == 0

    kinds = {message.id: (message.kind, message.platform_kind) for message in store.stored}
    assert sorted(kinds.values()) == [("text", "text"), *[("unsupported", "text.too_long")] * 2]
    assert listener.counts.malformed >= 1
    assert platform.log(0, "bad_ack") == []
    assert [entry["event"] for entry in logs].count("frame too large: its content is left out") >= 4
    assert len(json.dumps(logs, default=str)) < 20_000


async def test_a_frame_beyond_every_bound_costs_its_connection_and_no_memory(
    sandbox: Sandbox, platform: SandboxClient
) -> None:
    """Its size is known from its head, so it is never read; 1009 is the protocol's word for it."""
    store = Store()
    async with listening(sandbox, store) as (_, (stream,)):
        await asyncio.to_thread(platform.raw, "x" * 17_000_000)
        await until(lambda: stream.state().reconnects == 1 and stream.state().connected_since, 60)
        await asyncio.to_thread(platform.send_text, "good")
        await until(lambda: store.texts == ["good"], 60)

    assert platform.log(0, "closed")[0]["code"] == 1009
