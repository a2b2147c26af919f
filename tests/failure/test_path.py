"""The whole path on real parts: a frame goes in, a card comes out, and what dies in between costs nobody an answer."""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from prove.installation import Installation
from prove.verdict import Sent, Verdict, judge
from sandbox.client import SandboxClient
from sandbox.journal import ANSWERS

pytestmark = [pytest.mark.failure, pytest.mark.timeout(240)]
LIMIT_S = 150.0  # a killer brings its process down five times, and a busy machine starts the next one slowly


def wait_for(condition: Callable[[], Any], limit_s: float = LIMIT_S) -> Any:
    end = time.monotonic() + limit_s
    while not (result := condition()):
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.1)
    return result


def said(person: str, number: int, text: str = "") -> dict[str, Any]:
    """A message with its mark; the time of sending rises with the number."""
    created = int(time.time() * 1000) + number
    mark = f"#{person}m{number}#"
    where = {"conversation": f"cid-{person}=", "sender": person, "staff": person, "createAt": created}
    return {"text": f"{mark} {text}".strip(), **where}


def say(people: SandboxClient, messages: list[dict[str, Any]]) -> list[Sent]:
    """Push messages in this order."""
    told = people.send_many(messages)
    return [
        Sent(answer["msgId"], message["sender"], int(mark.rpartition("m")[2]), mark)
        for answer, message in zip(told, messages, strict=True)
        for mark in [message["text"].split("#")[1]]
    ]


def answered(people: SandboxClient, sent: list[Sent]) -> Verdict:
    """Wait until everybody has an answer; the verdict then."""

    def complete() -> Verdict | None:
        verdict = judge(sent, people.log())
        return verdict if verdict.answered == len(sent) else None

    verdict: Verdict = wait_for(complete)
    return verdict


def test_ready_means_ready(house: Installation, broker: dict[str, str]) -> None:
    """A load balancer asks this, and so does whoever starts it."""
    answer = httpx.get(f"http://127.0.0.1:{house.web_port}/readyz")

    assert (answer.status_code, answer.json()["ready"]) == (200, True)
    roles = {one["role"] for one in house.processes()}
    embedded = {"redis"} if broker else {"redis", "broker"}
    assert roles == {*embedded, "listener", "text", "image", "default", "sender", "web"}


def test_a_redelivery_is_answered_once(people: SandboxClient) -> None:
    """DingTalk may push a message again although it was acknowledged."""
    message = {**said("ann", 0), "redeliveries": 3, "redeliver_after_s": 0.2}

    sent = say(people, [message])
    answered(people, sent)
    wait_for(lambda: len(people.log(0, "acked")) == 4)
    follower = say(people, [said("ann", 1)])

    assert answered(people, sent + follower).holds()


def test_twenty_quick_messages_keep_their_order_over_two_sockets(people: SandboxClient) -> None:
    """Whatever socket brings them, and while others are served."""
    sockets = len(people.connections())
    quick = [{**said("ann", number), "connection": number % sockets} for number in range(20)]
    others = [said(f"other{number}", 0) for number in range(20)]
    mixed = [message for pair in zip(quick, others, strict=True) for message in pair]

    verdict = answered(people, say(people, mixed))

    assert sockets == 2
    assert verdict.holds()
    assert verdict.answered == 40


def test_the_turn_of_a_killed_worker_is_answered_by_another(house: Installation, people: SandboxClient) -> None:
    sent = say(people, [said(f"p{number}", 0, "word " * 40) for number in range(5)])
    wait_for(lambda: people.log(0, "created"))

    house.kill("text", random.Random(1))

    assert answered(people, sent).holds()


def test_poison_kills_alone(house: Installation, people: SandboxClient) -> None:
    """Fifteen good turns and one that kills its process, in one batch: fifteen answers, one apology, nothing else."""
    good = [said(f"good{number}", 0, "word " * 10) for number in range(15)]
    bad = said("bad", 0, "poison")

    sent = say(people, [*good[:7], bad, *good[7:]])
    good_ones = [one for one in sent if one.person != "bad"]
    answered(people, good_ones)
    apology = wait_for(lambda: [event for event in people.log(0, *ANSWERS) if event["person"] == "bad"])

    verdict = judge(good_ones, [event for event in people.log() if event.get("person") != "bad"])
    assert verdict.holds()
    assert verdict.answered == 15
    assert len(apology) == 1
    assert "Sorry" in apology[0]["text"]
    house.wait_until(lambda: all(one["state"] == "ready" for one in house.processes("text")), "text is ready again")


def test_scaling_while_messages_flow_loses_nothing(house: Installation, people: SandboxClient) -> None:
    """New processes take work, and those that go finish theirs."""
    sent = say(people, [said(f"p{number}", 0, "word " * 20) for number in range(10)])
    house.scale(text=3)
    house.wait_until(lambda: [one["state"] for one in house.processes("text")] == ["ready"] * 3, "three text workers")
    pids = {one["pid"] for one in house.processes("text")}
    sent += say(people, [said(f"p{number}", 1, "word " * 40) for number in range(30)])
    wait_for(lambda: len(people.log(0, "created")) > 20)

    house.scale(text=1)
    sent += say(people, [said(f"p{number}", 2) for number in range(10)])

    verdict = answered(people, sent)
    assert verdict.holds()
    assert len(pids) == 3
    house.wait_until(lambda: len(house.processes("text")) == 1, "one text worker")


def test_a_disconnect_costs_nothing(people: SandboxClient) -> None:
    """The platform says goodbye to a connection every few hours."""
    sent = say(people, [said(f"p{number}", 0) for number in range(10)])
    people.fault("disconnect", connection="all", close_after_s=1.0)
    time.sleep(0.3)
    sent += say(people, [said(f"p{number}", 1) for number in range(10)])

    assert answered(people, sent).holds()
    wait_for(lambda: len(people.connections()) == 2)


def test_a_hang_of_the_record_is_survived(house: Installation, people: SandboxClient) -> None:
    """What is not stored is not acknowledged, and is stored as soon as that can be done."""
    record = house.processes("redis")[0]["pid"]
    os.kill(record, signal.SIGSTOP)
    try:
        sent = say(people, [said(f"p{number}", 0) for number in range(5)])
        time.sleep(0.5)
        acked_while_hanging = people.log(0, "acked")
    finally:
        os.kill(record, signal.SIGCONT)

    assert acked_while_hanging == []
    assert answered(people, sent).holds()


def deep_json() -> str:
    return "[" * 100_000 + "]" * 100_000


HOSTILE = {
    "a frame of 10 MB": "x" * 10_000_000,
    "deep JSON": deep_json(),
    "no JSON": "{",
    "a list": "[1, 2]",
    "data of the wrong type": json.dumps(
        {"type": "CALLBACK", "headers": {"topic": "/v1.0/im/bot/messages/get"}, "data": 7}
    ),
    "headers of the wrong type": json.dumps({"type": "CALLBACK", "headers": 7, "data": "{}"}),
    "deep data": json.dumps(
        {"type": "CALLBACK", "headers": {"topic": "/v1.0/im/bot/messages/get"}, "data": deep_json()}
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_frame_costs_no_neighbour(house: Installation, people: SandboxClient, name: str) -> None:
    pids = {one["pid"] for one in house.processes()}

    people.raw(HOSTILE[name])
    sent = say(people, [said("ann", 0)])

    assert answered(people, sent).holds()
    assert {one["pid"] for one in house.processes()} == pids


STRANGE: dict[str, dict[str, Any]] = {
    "an empty text": {"text": ""},
    "blanks": {"text": "   "},
    "100,000 characters": {"text": "字" * 100_000},
    "zero bytes": {"text": "a\x00b\x00"},
    "an unknown kind": {"data": {"msgtype": "hologram", "content": {}}},
    "a kind of the wrong type": {"data": {"msgtype": "picture", "content": 7}},
    "an unknown command": {"text": "/abracadabra"},
    "a command": {"text": "/help"},
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_strange_message_is_answered_and_costs_no_neighbour(
    house: Installation, people: SandboxClient, name: str
) -> None:
    pids = {one["pid"] for one in house.processes()}

    strange = people.send_text(**{"text": "", **STRANGE[name]}, conversation="cid-eve=", sender="eve", staff="eve")
    sent = say(people, [said("ann", 0)])

    assert people.wait_for_reply("cid-eve=", strange["seq"], 30) is not None
    wait_for(lambda: judge(sent, people.log()).answered == 1)
    assert {one["pid"] for one in house.processes()} == pids


def bomb() -> bytes:
    """A PNG whose header says a gigabyte."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("content", [b"this is no picture", bomb()], ids=["no picture", "a bomb"])
def test_a_picture_that_is_none_gets_a_sentence(house: Installation, people: SandboxClient, content: bytes) -> None:
    pids = {one["pid"] for one in house.processes()}

    sent = people.picture(content, conversation="cid-eve=", sender="eve", staff="eve")

    answer = people.wait_for_reply("cid-eve=", sent["seq"], 30)
    assert answer is not None
    assert "picture" in answer["text"]
    assert {one["pid"] for one in house.processes()} == pids
