"""The vendor's own SDK works against the sandbox, so the sandbox speaks the real protocol."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.client import Event, SandboxClient
from sandbox.process import Sandbox
from tests.sandbox.shapes import eventually

BOT = Path(__file__).with_name("sdk_bot.py")


@pytest.fixture(scope="module")
def bot(box: Sandbox) -> Iterator[None]:
    """One SDK process for all tests here, connected before the first begins."""
    environment = {"PATH": os.environ["PATH"], "NO_PROXY": "*", **box.environment()}
    process = subprocess.Popen([sys.executable, str(BOT)], env=environment, stderr=subprocess.DEVNULL)
    try:
        with SandboxClient(box.url) as client:
            assert eventually(client, "connected")
        yield
    finally:
        process.kill()
        process.wait()


def _answer(sandbox: SandboxClient, conversation: str, after: int) -> Event:
    event = sandbox.wait_for_reply(conversation, after)
    assert event is not None
    return event


def test_the_sdk_reads_a_text_and_answers_by_webhook(bot: None, sandbox: SandboxClient) -> None:
    sent = sandbox.send_text("hello")
    event = _answer(sandbox, sent["conversation"], sent["seq"])

    assert (event["kind"], event["text"]) == ("webhook", "Ann staff-ann 1:hello")
    assert [ack["msgId"] for ack in eventually(sandbox, "acked")] == [sent["msgId"]]
    assert sandbox.log(0, "bad_ack") == []


def test_the_sdk_reads_a_group_message(bot: None, sandbox: SandboxClient) -> None:
    """The platform cuts out the @name and leaves a blank."""
    sent = sandbox.send_text("hello all", group=True, conversation="cidROOM=", sender="bob")

    assert _answer(sandbox, "cidROOM=", sent["seq"])["text"] == "Bob staff-bob 2: hello all"


@pytest.mark.parametrize("way", ["card in one call", "card in two calls"])
@pytest.mark.parametrize("group", [False, True])
def test_the_sdk_types_into_a_card(bot: None, sandbox: SandboxClient, way: str, group: bool) -> None:
    sent = sandbox.send_text(way, group=group)
    event = _answer(sandbox, sent["conversation"], sent["seq"])

    assert (event["kind"], event["text"]) == ("finished", f"whole of {way}")
    texts = [shown["text"] for shown in sandbox.log(0, "created", "updated", "finished")]
    assert texts == ["thinking", f"half of {way}", f"whole of {way}"]


def test_the_sdk_downloads_a_picture(bot: None, sandbox: SandboxClient) -> None:
    sent = sandbox.picture(b"\x89PNG\r\n\x1a\n" * 100)

    assert _answer(sandbox, sent["conversation"], sent["seq"])["text"] == "800 bytes"
    assert [event["stage"] for event in sandbox.log(0, "downloaded")] == ["link", "file"]


def test_the_sdk_answers_a_ping(bot: None, sandbox: SandboxClient) -> None:
    sandbox.system("ping")

    assert eventually(sandbox, "answered")[-1]["topic"] == "ping"
    assert sandbox.log(0, "bad_ack") == []
