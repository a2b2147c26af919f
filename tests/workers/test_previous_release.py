"""An upgrade meets what the release before it left behind, and for a while both work on the same record."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import app
from app.acceptance import Limits
from app.context import recall
from app.keys import Box
from app.mailbox import Mailbox
from app.message import VERSION, Message, Said
from app.redis import Store
from app.scripts import load_script
from app.wire import decode_message
from tests.workers.desk import House
from tests.workers.record import PART, RECORDS, a_lasting_house, dump, load, said, shape, work_off, write

# What each person of a kept record still has to see, in this order. They are the same in every version's file.
OWED = {
    "ann": ["ann 2", "ann 3", "ann 4"],
    "bob": ["bob 1", "bob 2"],
    "carl": ["carl two", "carl three", "carl 2"],
    "dora": ["dora 1"],
    "eve": ["eve 1"],
    "fred": ["fred 1", "fred 2", "fred 3"],
    "gus": ["gus 1"],
}


@pytest.fixture
def house(store: Store) -> Iterator[House]:
    with a_lasting_house(store) as house:
        house.outlet.longest = PART
        yield house


def kept(version: int | str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((RECORDS / f"v{version}.json").read_text())
    return record


def seen_by(house: House, person: str) -> list[str]:
    return [text.strip().removesuffix(",") for text in house.outlet.texts() if text.startswith(f"{person} ")]


@pytest.mark.parametrize("path", sorted(RECORDS.glob("v*.json")), ids=lambda path: path.stem)
def test_what_an_earlier_version_left_behind_is_answered_once_and_in_order(house: House, path: Path) -> None:
    """Waiting, leased, typing, forwarded, given back, sent in part: whoever held it is gone."""
    load(house.store, kept(path.stem.removeprefix("v")))
    history = recall(house.store, said("ann", 1).conversation)

    work_off(house)

    assert {person: seen_by(house, person) for person in OWED} == OWED
    assert history == (Said("user", "ann 1"), Said("assistant", "ann 1"))
    say = house.wording.say
    others = [text for text in house.outlet.texts() if text.split(" ")[0] not in OWED]
    assert sorted(others) == sorted([say("apology_failed"), say("stopping"), "this conversation is full"])
    assert all(seen.finished for seen in house.outlet.seen)
    assert [box.waiting() for box in (house.boxes.inbox, house.boxes.outbox, house.boxes.control)] == [0, 0, 0]


def test_a_message_that_an_earlier_version_accepted_is_still_known(house: House) -> None:
    """A redelivery may come after the upgrade."""
    load(house.store, kept(1))
    waiting = house.boxes.inbox.waiting()

    house.gets(said("ann", 1))
    house.gets(said("ann", 2))

    assert house.boxes.inbox.waiting() == waiting


def test_the_record_has_the_shape_of_its_version(store: Store) -> None:
    """Old and new processes share it, so what is written may change with the version alone.

    After a change that every process of this version reads and keeps (a further field, say), and of a version that was
    not released: `python -m tests.workers.record`. After any other: raise VERSION first, and keep the older files.
    """
    write(store)

    assert shape(dump(store)) == shape(kept(VERSION))


def test_a_message_that_names_no_version_is_of_the_first(house: House) -> None:
    """Version 1 did not write it down."""
    load(house.store, kept(1))

    body = house.head(said("ann", 1))["body"]

    assert '"v":' not in body
    assert decode_message(body).v == 1


def newer(house: House, message: Message, box: Box) -> dict[str, Any]:
    """The head becomes an item of the next version, which this one cannot read; the item."""
    house.rewrite_head(message, box, v=VERSION + 1, body="what only a newer program reads", further="field")
    return house.head(message, box)


def upgraded(house: House) -> None:
    """Today's program is replaced by the next version, for which the body above is plain."""
    limits = Limits(lease_s=5.0)
    house.boxes.inbox = house.desk.inbox = Mailbox(house.store, "inbox", limits, reads=VERSION + 1)
    house.boxes.outbox = house.sending.outbox = Mailbox(house.store, "outbox", limits, reads=VERSION + 1)


def test_a_message_of_a_newer_version_waits_for_a_newer_worker_and_nobody_waits_for_it(house: House) -> None:
    first, then = house.gets(said("ann", 1)), house.gets(said("ann", 2))
    body = house.head(first)["body"]
    item = newer(house, first, "inbox")
    house.gets(said("bob", 1))

    work_off(house, rounds=5)
    left = house.items("inbox", first)
    seen = house.outlet.texts()
    upgraded(house)
    house.rewrite_head(first, body=body)
    work_off(house, rounds=5)

    assert seen == ["bob 1"]
    assert left[0] == item
    assert [one["id"] for one in left] == [first.id, then.id]
    assert house.outlet.texts() == ["bob 1", "ann 1", "ann 2"]
    assert house.dead_letters(first) == []


def test_a_reply_of_a_newer_version_waits_for_a_newer_sender_and_nobody_waits_for_it(house: House) -> None:
    first = house.owes(said("ann", 1), "ann 1")
    house.owes(said("ann", 2), "ann 2")
    body = house.head(first, "outbox")["body"]
    item = newer(house, first, "outbox")
    house.owes(said("bob", 1), "bob 1")

    work_off(house, rounds=5)
    left, seen = house.head(first, "outbox"), house.outlet.texts()
    upgraded(house)
    house.rewrite_head(first, "outbox", body=body)
    work_off(house, rounds=5)

    assert (seen, left) == (["bob 1"], item)
    assert house.outlet.texts() == ["bob 1", "ann 1", "ann 2"]


def test_a_process_runs_the_scripts_that_it_began_with(store: Store) -> None:
    """The files may be replaced under it: each script has read its file before the first call of any."""
    files = [path for path in (Path(app.__file__).parent / "lua").glob("*.lua") if path.stem != "shared"]
    read_before = load_script.cache_info()

    scripts = [load_script(path.stem) for path in files]

    assert len(scripts) > 10
    assert load_script.cache_info().misses == read_before.misses
