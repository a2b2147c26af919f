"""GET /metrics as a Prometheus reads it: how long the lines are, how much room is left, and never who waits."""

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from app import metrics
from app.keys import Box
from app.mailbox import Lease, Mailbox
from app.message import Message
from app.redis import Store
from app.servers import prepare
from app.settings import Settings
from app.web.server import application
from tests.conftest import Boxes
from tests.samples import a_message, a_reply, notices
from tests.valkey import free_port, valkey

Found = dict[str, float]


@pytest.fixture
async def pages(valkey_url: str, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The web process of a house whose record is the tests' own."""
    settings = Settings(data_dir=tmp_path, redis_url=SecretStr(valkey_url), waiting_limit=3, _env_file=None)
    transport = httpx.ASGITransport(application(settings))
    async with httpx.AsyncClient(transport=transport, base_url="http://switchyard") as pages:
        yield pages


async def scraped(pages: httpx.AsyncClient) -> Found:
    """Every number on the page, under its name with its labels."""
    answer = await pages.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain")
    return numbers(answer.text)


def numbers(page: str) -> Found:
    found = {}
    for family in text_string_to_metric_families(page):
        assert family.documentation
        for sample in family.samples:
            labels = ",".join(sample.labels.values())
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def accepted(box: Mailbox, sender: str) -> Message:
    message = a_message(sender=sender)
    box.accept(message, "text", notices=notices(message))
    return message


def taken(box: Mailbox, message: Message) -> Lease:
    held = box.lease(message.conversation, "text")
    assert isinstance(held, Lease)
    return held


async def test_the_lines_are_counted(pages: httpx.AsyncClient, boxes: Boxes) -> None:
    """Three people ask; one is being answered, one was answered and gave up once."""
    answered = accepted(boxes.inbox, "answered")
    boxes.inbox.commit(taken(boxes.inbox, answered), reply=a_reply(answered), dead_letter=b"{}")
    taken(boxes.inbox, accepted(boxes.inbox, "in work"))
    accepted(boxes.inbox, "waiting")

    found = await scraped(pages)

    assert found["switchyard_record_up"] == 1
    assert found["switchyard_waiting_items{inbox}"] == found["switchyard_in_work_mailboxes{inbox}"] == 1
    assert found["switchyard_waiting_items{outbox}"] == found["switchyard_dead_letters"] == 1
    assert found["switchyard_waiting_items{control}"] == found["switchyard_oldest_waiting_seconds{control}"] == 0
    assert 0 < found["switchyard_oldest_waiting_seconds{inbox}"] < 60
    assert found["switchyard_waiting_limit"] == 3
    assert found["switchyard_record_memory_used_bytes"] > 500_000
    assert found["switchyard_record_memory_limit_bytes"] == 0
    assert [found[f"switchyard_full{{{why}}}"] for why in ("memory", "disk", "waiting")] == [0, 0, 0]
    assert "switchyard_record_disk_free_bytes" not in found  # it is not ours to see


async def test_a_full_house_says_why(valkey_url: str, store: Store, inbox: Mailbox) -> None:
    settings = Settings(redis_url=SecretStr(valkey_url), waiting_limit=1, _env_file=None)
    accepted(inbox, "waiting")
    store.client.config_set("maxmemory", "1")
    try:
        found = {family.name: family for family in metrics.read(settings)}
    finally:
        store.client.config_set("maxmemory", "0")

    full = {sample.labels["reason"]: sample.value for sample in found["switchyard_full"].samples}
    assert full == {"memory": 1, "disk": 0, "waiting": 1}
    assert found["switchyard_record_memory_limit_bytes"].samples[0].value == 1


async def test_the_disk_of_an_embedded_record_is_measured_also_while_it_is_down(tmp_path: Path) -> None:
    server = prepare("redis", tmp_path)
    settings = Settings(data_dir=tmp_path, redis_url=server.url, disk_free_mb=2**32, _env_file=None)

    found = {family.name: family.samples for family in metrics.read(settings)}

    assert found["switchyard_record_up"][0].value == 0
    assert found["switchyard_record_disk_free_bytes"][0].value > 0
    assert found["switchyard_record_disk_reserve_bytes"][0].value == 2**52
    assert {sample.labels["reason"]: sample.value for sample in found["switchyard_full"]}["disk"] == 1


async def test_nobody_can_be_recognised(pages: httpx.AsyncClient, boxes: Boxes) -> None:
    message = accepted(boxes.inbox, "$:eve==")

    page = (await pages.get("/metrics")).text

    assert message.id not in page
    assert message.conversation not in page
    assert "eve" not in page
    assert message.text not in page


@pytest.mark.parametrize("hangs", [False, True], ids=["gone", "hanging"])
async def test_a_record_that_does_not_answer_is_down_and_the_page_answers_all_the_same(
    tmp_path: Path, hangs: bool
) -> None:
    with valkey(tmp_path / "record") as url:
        pid = int(Store(url).client.info()["process_id"])
        settings = Settings(redis_url=SecretStr(url if hangs else f"redis://127.0.0.1:{free_port()}/0"), _env_file=None)
        page = metrics.Metrics(settings)
        os.kill(pid, signal.SIGSTOP)
        try:
            text, _ = await page.page("")
        finally:
            os.kill(pid, signal.SIGCONT)

    found = numbers(text.decode())
    assert found["switchyard_record_up"] == 0
    assert "switchyard_dead_letters" not in found


async def test_a_reading_is_kept_for_a_while_and_openmetrics_is_spoken_too(
    pages: httpx.AsyncClient, boxes: Boxes
) -> None:
    """Many who ask must not become a load."""
    box: Box = "inbox"
    calls = [await scraped(pages) for _ in range(2)]
    accepted(boxes.inbox, "meanwhile")

    asked: Any = await pages.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})

    assert calls[0] == calls[1]
    assert asked.headers["Content-Type"].startswith("application/openmetrics-text")
    assert asked.text.rstrip().endswith("# EOF")
    assert f'switchyard_waiting_items{{box="{box}"}}' in asked.text
