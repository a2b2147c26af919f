"""A record in the middle of its day: written through the real scripts, kept as a file, put back, and worked off.

`python -m tests.workers.record` writes `records/v<version>.json`, as the version that is checked out writes it. The
file is kept for as long as a record of that version may be met, and never made anew for a version that was released.
"""

import json
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from app.acceptance import Limits
from app.mailbox import GIVEN_UP_AFTER
from app.message import VERSION, Attachment, Message
from app.redis import Store
from app.sweeper import Sweeper
from tests.samples import a_message
from tests.valkey import valkey
from tests.workers.desk import House
from tests.workers.recording_outlet import BUSY
from workers.control import run_control
from workers.delivery import deliver
from workers.turn import run_turn

RECORDS = Path(__file__).parent / "records"
AGES_S = 3.0e9  # nothing in a kept record is too old to be answered
PART = 200  # characters of one message, where an answer goes out in parts
SENT_AT = 1_790_000_000.0

Json = dict[str, Any]


def said(person: str, number: int, text: str = "", *, at: int = 0) -> Message:
    """What a person says; the time of sending rises with the number unless one is given."""
    return a_message(
        f"dingtalk:bot:{person}{number}",
        text=text or f"{person} {number}",
        sender=person,
        sent_at=SENT_AT + (at or number),
    )


@contextmanager
def a_lasting_house(store: Store, *, inbox_limit: int = 20) -> Iterator[House]:
    """A house that finds nothing too old."""
    house = House(store, Limits(lease_s=5.0, stale_after_s=AGES_S, inbox_limit=inbox_limit))
    house.sending.reply_expires_s = AGES_S
    try:
        yield house
    finally:
        house.close()


def write(store: Store) -> None:
    """One person for each thing that may be under way when everything stops."""
    with a_lasting_house(store, inbox_limit=3) as house:
        _answered_and_waiting(house)
        _in_mid_answer(house)
        _asked_to_stop(house)
        _forwarded_and_raised(house)
        _full(house)
        _given_up(house)
        _sent_in_part(house)
        _postponed_by_the_platform(house)


def _answered_and_waiting(house: House) -> None:
    first = house.gets(said("ann", 1))
    house.turn(first)
    house.deliver(first)
    for number in (2, 4, 3):  # two sockets brought them
        house.gets(said("ann", number))


def _in_mid_answer(house: House) -> None:
    """Leased, a draft, an open card; the next one waits."""
    running = house.gets(said("bob", 1))
    house.desk.typing.show(house.take(running), running.address, "bob")
    house.deliver(running)
    house.gets(said("bob", 2))


def _asked_to_stop(house: House) -> None:
    running = house.gets(said("eve", 1))
    house.take(running)
    house.stop(said("eve", 2, "/stop"))


def _forwarded_and_raised(house: House) -> None:
    picture = msgspec.structs.replace(
        said("dora", 1), kind="picture", attachments=(Attachment(kind="picture", code="DC-1"),)
    )
    house.gets(picture, "image")
    house.boxes.inbox.forward(house.take(picture, "image"), msgspec.structs.replace(picture, kind="text"), "text")
    house.boxes.inbox.release(house.take(picture), after_s=0.2, counts="raised")


def _full(house: House) -> None:
    for number in range(1, 6):
        house.gets(said("fred", number))


def _given_up(house: House) -> None:
    deadly = house.gets(said("hal", 1))
    for _ in range(GIVEN_UP_AFTER):
        house.hasten(deadly)
        house.vanish(deadly)
    house.hasten(deadly)
    house.turn(deadly)


def _sent_in_part(house: House) -> None:
    """Messages without a card; the first part is out when the sender dies in the second."""
    house.sending.cards = lambda: False
    house.outlet.longest = PART
    message = house.owes(said("carl", 1), "carl one, ".ljust(PART) + "carl two, ".ljust(PART) + "carl three")
    house.owes(said("carl", 2), "carl 2")
    house.outlet.dies_in("webhook", 1)
    try:
        house.deliver(message)
    except SystemExit:
        return
    raise AssertionError("nobody died")


def _postponed_by_the_platform(house: House) -> None:
    house.outlet.fails("webhook", BUSY)
    house.deliver(house.owes(said("gus", 1), "gus 1"))


def dump(store: Store) -> Json:
    """Everything in a record, bytes as latin-1 text: {key: {kind, value}}."""
    found: Json = {}
    client: Any = store.client
    for name in sorted(client.scan_iter()):
        kind = client.type(name).decode()
        found[name.decode()] = {"kind": kind, "value": _readers(store, name)[kind]()}
    return found


def _readers(store: Store, name: bytes) -> dict[str, Any]:
    client: Any = store.client
    return {
        "string": lambda: _text(client.get(name)),
        "list": lambda: [_text(one) for one in client.lrange(name, 0, -1)],
        "hash": lambda: {_text(field): _text(value) for field, value in sorted(client.hgetall(name).items())},
        "zset": lambda: [[_text(member), score] for member, score in client.zrange(name, 0, -1, withscores=True)],
    }


def _text(value: bytes) -> str:
    return value.decode("latin-1")


def load(store: Store, kept: Json) -> None:
    """Put a kept record back, byte for byte."""
    client = store.client
    for name, entry in kept.items():
        value: Any = entry["value"]
        if entry["kind"] == "string":
            client.set(name, value.encode("latin-1"))
        elif entry["kind"] == "list":
            client.rpush(name, *(one.encode("latin-1") for one in value))
        elif entry["kind"] == "hash":
            client.hset(name, mapping={field: one.encode("latin-1") for field, one in value.items()})
        else:
            client.zadd(name, {member.encode("latin-1"): score for member, score in value})


def shape(kept: Json) -> dict[str, list[str]]:
    """What a record is made of: for each sort of key its kind, and the fields of what it holds."""
    shapes: dict[str, set[str]] = {}
    for name, entry in kept.items():
        fields = shapes.setdefault(f"{_sort(name)} ({entry['kind']})", set())
        fields.update(*map(_fields, _values(name, entry)))
    return {sort: sorted(fields) for sort, fields in sorted(shapes.items())}


def _sort(name: str) -> str:
    """The key without what it is about: `inbox:{7}:<conversation>` is `inbox`, a state keeps its box."""
    words = re.sub(r":\{\d+\}", "", name).split(":")
    return ":".join(words[:2] if words[0] in ("state", "due", "waiting") else words[:1])


def _values(name: str, entry: Json) -> list[Any]:
    """What to look into: the items of a mailbox, the fields of a hash, a value that is JSON."""
    value: Any = entry["value"]
    if entry["kind"] == "list":
        return [msgspec.msgpack.decode(one.encode("latin-1")) for one in value]
    if entry["kind"] == "hash":
        return [] if name.startswith("cards:") else [value]
    if entry["kind"] == "zset":
        return [json.loads(member) for member, _ in value if member.startswith("{")]
    return [json.loads(value)] if value.startswith("{") else []


def _fields(value: Any, before: str = "") -> set[str]:
    """Names of fields, also in the JSON that a field holds."""
    if isinstance(value, str) and value.startswith("{"):
        value = json.loads(value.encode("latin-1"))
    if isinstance(value, list):
        return set[str]().union(*(_fields(one, before) for one in value))
    if not isinstance(value, dict):
        return set()
    here = {f"{before}{field}" for field in value}
    return here.union(*(_fields(one, f"{before}{field}.") for field, one in value.items()))


def work_off(house: House, *, rounds: int = 50) -> None:
    """Do what the record says is due, until nothing is: whoever had a lease is gone."""
    store, wakes = house.store, house.wakes
    boxes = [house.boxes.inbox, house.boxes.outbox, house.boxes.control]
    sweeper = Sweeper(store, boxes, wake=wakes.wake, filled=list, interval_s=1.0)
    for _ in range(rounds):
        hasten(store)
        sweeper.sweep()
        while wakes.now:
            _do(house, *wakes.now.pop(0))


def hasten(store: Store) -> None:
    """Everything that waits for its time is due now."""
    client: Any = store.client
    for name in client.scan_iter("due:*"):
        client.zadd(name, dict.fromkeys(client.zrange(name, 0, -1), 1))


def _do(house: House, queue: str, conversation: str) -> None:
    if queue == "send":
        deliver(conversation, desk=house.sending)
    elif queue == "control":
        run_control(conversation, box=house.boxes.control, desk=house.desk)
    else:
        run_turn(conversation, queue, desk=house.desk)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, valkey(Path(folder)) as url:
        store = Store(url)
        write(store)
        text = json.dumps(dump(store), indent=1, sort_keys=True)
        store.close()
    path = RECORDS / f"v{VERSION}.json"
    path.write_text(text + "\n")
    print(path, file=sys.stderr)


if __name__ == "__main__":
    main()
