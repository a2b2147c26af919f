"""What `switchyard status` counts, and that it names what is wrong with its mend."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from app import keys
from app.census import LOOK_AT_MOST, Census
from app.drafts import Drafts
from app.keys import Box
from app.mailbox import DraftLease, Lease, Mailbox
from app.message import Message
from app.quota import MonthlyCalls
from app.redis import Store
from app.servers import prepare
from app.settings import Settings
from app.status import report
from app.sweeper import Sweeper
from tests.conftest import Boxes
from tests.samples import a_message, a_reply, notices
from tests.valkey import free_port, valkey
from tests.workers.desk import a_house

A_MINUTE_MS = 60_000


@pytest.fixture(scope="module")
def broker_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("broker")
    with valkey(folder) as url:
        yield url


@pytest.fixture
def settings(valkey_url: str, broker_url: str) -> Settings:
    return Settings(redis_url=valkey_url, broker_url=broker_url)


def accepted(inbox: Mailbox, sender: str) -> Message:
    message = a_message(sender=sender)
    inbox.accept(message, "text", notices=notices(message))
    return message


def taken(box: Mailbox, message: Message, queue: str = "text") -> Lease:
    held = box.lease(message.conversation, queue)
    assert isinstance(held, Lease)
    return held


def grows_old(store: Store, message: Message, box: Box = "inbox", ms: int = A_MINUTE_MS) -> None:
    """The head of a mailbox was accepted so much earlier."""
    name = keys.items(box, message.conversation)
    packed = store.client.lindex(name, 0)
    assert isinstance(packed, bytes)
    item = msgspec.msgpack.decode(packed)
    store.client.lset(name, 0, msgspec.msgpack.encode(item | {"since": item["since"] - ms}))  # type: ignore[arg-type]


def faults(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("FAULT")]


def test_an_empty_house_has_nothing_to_count(inbox: Mailbox) -> None:
    assert inbox.census() == Census(waiting=0, in_work=0, oldest_s=0.0)


def test_what_is_in_work_does_not_wait(store: Store, inbox: Mailbox) -> None:
    """Three people ask, one of them twice; that one is being answered, and has waited longest."""
    busy, old, _ = (accepted(inbox, name) for name in ("busy", "old", "new"))
    accepted(inbox, "busy")
    taken(inbox, busy)
    grows_old(store, busy, ms=2 * A_MINUTE_MS)
    grows_old(store, old)

    census = inbox.census()

    assert (census.waiting, census.in_work) == (3, 1)
    assert A_MINUTE_MS / 1000 <= census.oldest_s < 1.5 * A_MINUTE_MS / 1000


def test_a_head_whose_holder_vanished_waits_again(store: Store, inbox: Mailbox) -> None:
    """With all workers dead nobody ends their leases, and that is when the count must be true."""
    message = accepted(inbox, "left alone")
    taken(inbox, message)
    store.client.hset(keys.state("inbox", message.conversation), "until", 1)
    grows_old(store, message)

    census = inbox.census()

    assert (census.waiting, census.in_work) == (1, 0)
    assert census.oldest_s >= A_MINUTE_MS / 1000


def test_the_sweeper_does_not_make_the_oldest_young(store: Store, boxes: Boxes) -> None:
    """It moves on the time at which it looks again; the person waits all the same."""
    message = accepted(boxes.inbox, "waiting")
    grows_old(store, message)
    store.client.zadd(keys.due("inbox", keys.shard_of(message.conversation)), {message.conversation: 1})
    sweeper = Sweeper(store, [boxes.inbox], wake=lambda *_: None, filled=list, interval_s=60.0)

    swept = sweeper.sweep()

    assert swept == 1
    assert boxes.inbox.census().oldest_s >= A_MINUTE_MS / 1000


def test_a_draft_that_is_being_shown_is_work_and_nothing_waits_for_it(store: Store, boxes: Boxes) -> None:
    message = accepted(boxes.inbox, "reading")
    Drafts(store).write(taken(boxes.inbox, message), message.address, "hel")
    assert isinstance(boxes.outbox.lease(message.conversation, "send"), DraftLease)
    store.client.zadd(keys.due("outbox", keys.shard_of(message.conversation)), {message.conversation: 1})

    census = boxes.outbox.census()

    assert (census.waiting, census.in_work, census.oldest_s) == (0, 1, 0.0)


def test_a_long_line_is_counted_whole_and_looked_at_in_part(store: Store, inbox: Mailbox) -> None:
    """One script must not keep the record from its work for long."""
    item = {"id": "m", "queue": "text", "since": int(time.time() * 1000) - A_MINUTE_MS}
    count = LOOK_AT_MOST + 20
    names = [f"person {number}" for number in range(50 * count) if keys.shard_of(f"person {number}") == 0][:count]
    with store.client.pipeline(transaction=False) as pipeline:
        for name in names:
            pipeline.rpush(keys.items("inbox", name), msgspec.msgpack.encode(item))
            pipeline.zadd(keys.due("inbox", 0), {name: 1})
        pipeline.set(keys.waiting("inbox", 0), count)
        pipeline.execute()

    census = inbox.census()

    assert (census.waiting, census.in_work) == (count, 0)
    assert census.oldest_s >= A_MINUTE_MS / 1000


def test_the_command_in_the_chat_says_the_same(store: Store) -> None:
    """Whoever asks is being served, and does not wait."""
    with a_house(store) as house:
        grows_old(store, house.gets(a_message(sender="waiting")), ms=A_MINUTE_MS - 500)
        asking = house.gets(a_message(text="/status", sender="asking"))

        house.turn(asking, "default")

        (text,) = house.texts(asking)
        counted, waited_s = map(int, re.findall(r"\d+", text))
        assert counted == 1
        assert waited_s >= A_MINUTE_MS / 1000


def test_a_quiet_house_is_reported_without_a_fault(settings: Settings, store: Store, boxes: Boxes) -> None:
    message = accepted(boxes.inbox, "answered")
    boxes.inbox.commit(taken(boxes.inbox, message), reply=a_reply(message), dead_letter=b"{}")

    lines = report(settings)

    assert lines == [
        "inbox: 0 waiting, 0 in work, oldest waiting 0 s",
        "outbox: 1 waiting, 0 in work, oldest waiting 0 s",
        "control: 0 waiting, 0 in work, oldest waiting 0 s",
        "dead letters: 1",
        *(f"queue {name}: 0 wake-ups" for name in ("text", "image", "default", "send")),
    ]


def test_an_old_message_that_nobody_works_on_is_a_fault_with_its_mend(
    settings: Settings, store: Store, inbox: Mailbox
) -> None:
    grows_old(store, accepted(inbox, "waiting"))

    (fault,) = faults(report(settings))

    assert "nothing moves in the inbox" in fault
    assert "switchyard ps" in fault


def test_a_long_line_that_moves_is_no_fault(settings: Settings, store: Store, inbox: Mailbox) -> None:
    grows_old(store, accepted(inbox, "waiting"))
    taken(inbox, accepted(inbox, "being answered"))

    assert faults(report(settings)) == []


@pytest.mark.parametrize(
    ("used", "line"),
    [(2, "card calls this month: 2 of 3"), (3, "card calls this month: 3 of 3, answers go as Markdown")],
)
def test_card_calls_are_reported_when_they_are_counted(settings: Settings, store: Store, used: int, line: str) -> None:
    month = MonthlyCalls(store, 3)
    for _ in range(used):
        month.count()

    limited, unlimited = (report(settings.model_copy(update={"card_calls_per_month": limit})) for limit in (3, 0))

    assert line in limited
    assert [one for one in unlimited if "card calls" in one] == []


def test_a_record_that_takes_nothing_new_is_a_fault_and_what_it_holds_is_still_counted(
    settings: Settings, store: Store, inbox: Mailbox
) -> None:
    accepted(inbox, "waiting")
    store.client.config_set("maxmemory", "1")
    try:
        lines = report(settings)
    finally:
        store.client.config_set("maxmemory", "0")

    (fault,) = faults(lines)
    assert "the record's memory is full" in fault
    assert "raise SWITCHYARD_RECORD_MEMORY_MB" in fault
    assert "inbox: 1 waiting, 0 in work" in "\n".join(lines)


def test_the_limit_of_waiting_messages_is_a_fault_until_one_has_left(settings: Settings, inbox: Mailbox) -> None:
    first, _ = accepted(inbox, "first"), accepted(inbox, "second")
    limited = settings.model_copy(update={"waiting_limit": 2})

    (fault,) = faults(report(limited))
    inbox.commit(taken(inbox, first))

    assert "2 messages wait, 2 may: people are told to come back" in fault
    assert "switchyard scale" in fault
    assert faults(report(limited)) == []


def test_a_full_disk_is_a_fault_also_when_the_record_died_of_it(settings: Settings, tmp_path: Path) -> None:
    server = prepare("redis", tmp_path)  # which is not running
    greedy = {"disk_free_mb": 2**40, "data_dir": tmp_path, "redis_url": server.url}

    lines = faults(report(settings.model_copy(update=greedy)))

    assert ["the record's disk is full" in lines[0], "does not answer" in lines[1]] == [True, True]
    assert f"make room on the disk of {server.folder}" in lines[0]


def test_servers_that_do_not_answer_are_faults_each_with_its_mend() -> None:
    gone = f"redis://127.0.0.1:{free_port()}/0"

    lines = report(Settings(redis_url=gone, broker_url=gone))

    assert lines == faults(lines)
    assert ["SWITCHYARD_REDIS_URL" in lines[0], "SWITCHYARD_BROKER_URL" in lines[1]] == [True, True]
