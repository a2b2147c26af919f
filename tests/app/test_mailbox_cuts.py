"""Every script, with its answer lost on the way: the caller repeats it, and nothing is different from one call.

Each case runs twice: once on a good connection, once with the answer swallowed and the connection reset after the
server ran the script. Both must say the same and leave the same record.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from app import keys
from app.acceptance import Accepted, Limits, Outcome, acceptance, read_accepted
from app.drafts import Drafts
from app.errors import StoreUnavailable
from app.mailbox import DraftLease, Lease, Mailbox, Remember
from app.message import Message
from app.redis import AsyncStore, Store
from tests.app.proxy import Proxy, proxied
from tests.conftest import Boxes
from tests.samples import a_message, a_reply, notices

PAIR = a_message("dingtalk:bot:first", sent_at=100.0), a_message("dingtalk:bot:second", sent_at=200.0)
CONVERSATION = PAIR[0].conversation
SHARD = keys.shard_of(CONVERSATION)


@dataclass
class Line:
    """The boxes behind a proxy, and the record without it."""

    boxes: Boxes
    store: Store
    proxy: Proxy
    record: Store


@pytest.fixture
def line(valkey_url: str, store: Store) -> Iterator[Line]:
    with proxied(valkey_url) as proxy:
        behind = Store(proxy.url, deadline_s=10.0)
        yield Line(Boxes(behind, Limits(lease_s=3600.0)), behind, proxy, store)
        behind.close()


def accept(box: Mailbox, message: Message, queue: str = "text") -> Accepted:
    return box.accept(message, queue, notices=notices(message))


def lease(box: Mailbox, queue: str = "text") -> Lease:
    held = box.lease(CONVERSATION, queue)
    assert isinstance(held, Lease)
    return held


def held_pair(line: Line) -> Lease:
    """Two messages wait, and the first is in work."""
    for message in PAIR:
        accept(line.boxes.inbox, message)
    return lease(line.boxes.inbox)


def due_pair(line: Line) -> None:
    """Two messages wait, and nobody came for a minute."""
    for message in PAIR:
        accept(line.boxes.inbox, message)
    line.record.client.zadd(keys.due("inbox", SHARD), {CONVERSATION: 1})
    line.record.client.hset(keys.state("inbox", CONVERSATION), "woken", 1)


def a_draft_lease(line: Line) -> DraftLease:
    Drafts(line.store).write(held_pair(line), PAIR[0].address, "hel")
    held = line.boxes.outbox.lease(CONVERSATION, "send")
    assert isinstance(held, DraftLease)
    return held


def without_token(held: object) -> dict[str, Any]:
    """A lease, but for what differs between any two runs."""
    assert isinstance(held, Lease | DraftLease)
    fields = {name: getattr(held, name) for name in type(held).__slots__}
    return fields | {"token": "", "turn": "", "age_s": ""}


def names_due(line: Line) -> list[str]:
    return [name for _, name in line.boxes.inbox.overdue(SHARD, 10)]


Given = Callable[[Line], Any]
When = Callable[[Line, Any], Any]
CASES: dict[str, tuple[Given, When]] = {
    "lease": (
        lambda line: accept(line.boxes.inbox, PAIR[0]),
        lambda line, _: without_token(line.boxes.inbox.lease(CONVERSATION, "text")),
    ),
    "lease of a draft": (
        lambda line: Drafts(line.store).write(held_pair(line), PAIR[0].address, "hel"),
        lambda line, _: without_token(line.boxes.outbox.lease(CONVERSATION, "send")),
    ),
    "lease of an empty mailbox": (
        lambda line: None,
        lambda line, _: line.boxes.inbox.lease(CONVERSATION, "text"),
    ),
    "lease for another queue": (
        lambda line: accept(line.boxes.inbox, PAIR[0]),
        lambda line, _: line.boxes.inbox.lease(CONVERSATION, "image"),
    ),
    "commit": (
        held_pair,
        lambda line, held: line.boxes.inbox.commit(
            held,
            reply=a_reply(PAIR[0]),
            remember=Remember(what="save", context=b"[]"),
            dead_letter=b"{}",
        ),
    ),
    "commit of several": (
        held_pair,
        lambda line, held: line.boxes.inbox.commit(held, reply=a_reply(PAIR[0]), closes=[one.id for one in PAIR]),
    ),
    "forward": (held_pair, lambda line, held: line.boxes.inbox.forward(held, PAIR[0], "image")),
    "release": (held_pair, lambda line, held: line.boxes.inbox.release(held, counts="raised")),
    "release for later": (held_pair, lambda line, held: line.boxes.inbox.release(held, after_s=3600.0)),
    "release of a draft": (a_draft_lease, lambda line, held: line.boxes.outbox.release(held, shown=1)),
    "mark": (held_pair, lambda line, held: line.boxes.inbox.mark(held, "card", card="open")),
    "check": (held_pair, lambda line, held: line.boxes.inbox.check(held) > 0),
    "draft": (held_pair, lambda line, held: Drafts(line.store).write(held, PAIR[0].address, "hel")),
    "overdue": (due_pair, lambda line, _: line.boxes.inbox.overdue(SHARD, 10)),
    "sweep": (due_pair, lambda line, _: line.boxes.inbox.sweep(SHARD, [CONVERSATION], filled=[])),
    "sweep with a busy queue": (
        due_pair,
        lambda line, _: line.boxes.inbox.sweep(SHARD, [CONVERSATION], filled=["text"]),
    ),
    "sweeper": (lambda line: None, lambda line, _: line.store.run("sweeper", [keys.SWEEPER], ["me", 60_000])),
}

STAMPS = {"token", "until", "request", "woken", "swept", "settled", "since", "at", "later"}


def record_of(line: Line) -> dict[bytes, Any]:
    """Everything that the record holds, but for tokens and times of the clock."""
    client: Any = line.record.client
    found: dict[bytes, Any] = {}
    for name in client.keys("*"):
        kind = client.type(name)
        if kind == b"list":
            items = [msgspec.msgpack.decode(packed) for packed in client.lrange(name, 0, -1)]
            found[name] = [{key: value for key, value in item.items() if key not in STAMPS} for item in items]
        elif kind == b"hash":
            hashed = client.hgetall(name).items()
            found[name] = {key: value for key, value in hashed if key.decode() not in STAMPS and b"dingtalk" not in key}
        elif kind == b"zset":
            found[name] = client.zrange(name, 0, -1)
        else:
            found[name] = client.get(name) if not name.startswith(b"token") else b""
    return found


@pytest.mark.parametrize("case", CASES)
def test_a_script_whose_answer_is_lost_says_the_same_again(case: str, line: Line) -> None:
    """A caller cannot know whether a call without an answer was done: it repeats it, and must not do it twice."""
    given, when = CASES[case]
    wanted = when(line, given(line)), record_of(line)
    line.record.client.flushall()
    before = given(line)

    line.proxy.cut_next()
    answer = when(line, before)

    assert (line.proxy.disarm(), line.proxy.cuts) == (False, 1)
    assert (answer, record_of(line)) == wanted


def test_a_draft_that_is_finished_while_the_answer_is_lost_gives_the_final_reply(line: Line) -> None:
    """Otherwise nobody would know that the outbox is leased, and the reply would wait until the lease ends."""
    held = held_pair(line)
    Drafts(line.store).write(held, PAIR[0].address, "hel")
    inbox = Mailbox(line.record, "inbox", Limits())
    line.proxy.cut_next(meanwhile=lambda: inbox.commit(held, reply=a_reply(PAIR[0], "hello")))

    answer = line.boxes.outbox.lease(CONVERSATION, "send")

    assert isinstance(answer, Lease)
    assert (answer.reply().text, answer.vanished) == ("hello", 0)


@pytest.mark.parametrize(("box", "queue"), [("inbox", "text"), ("control", "control")])
def test_an_accept_whose_answer_is_lost_stores_one_message_and_wakes(box: str, queue: str, line: Line) -> None:
    """The repeat cannot know that it is the first to hear of it; it wakes all the same."""
    line.proxy.cut_next()

    arrival = accept(getattr(line.boxes, box), PAIR[0], queue)

    assert line.proxy.cuts == 1
    assert arrival == Accepted(Outcome.REPEAT, queue)
    assert getattr(line.boxes, box).waiting() == 1


def test_a_refusal_whose_answer_is_lost_is_told_once(line: Line) -> None:
    """One notice in the outbox, whatever the number of calls, and the sender is woken for it."""
    line.proxy.cut_next()

    arrival = line.boxes.inbox.accept(PAIR[0], "text", notices=notices(PAIR[0]), room=0)

    assert arrival == Accepted(Outcome.REPEAT, "send")
    assert (line.boxes.inbox.waiting(), line.boxes.outbox.waiting()) == (0, 1)


async def test_the_listeners_accept_is_repeated_too(line: Line) -> None:
    """The listener has a connection of another kind, on one loop."""
    store = AsyncStore(line.proxy.url, deadline_s=10.0)
    names, args = acceptance("inbox", PAIR[0], "text", limits=Limits(), room=10, notices=notices(PAIR[0]))
    line.proxy.cut_next()

    arrival = read_accepted(await store.run("accept", names, args))

    await store.close()
    assert line.proxy.cuts == 1
    assert arrival == Accepted(Outcome.REPEAT, "text")
    assert line.boxes.inbox.waiting() == 1


def test_a_renewal_whose_answer_is_lost_is_not_repeated_but_harmless(line: Line) -> None:
    """The renewing thread comes again by itself; what it asks must not depend on the time before."""
    held = held_pair(line)
    line.boxes.inbox.renew([held])
    line.proxy.cut_next()

    with pytest.raises(StoreUnavailable):
        line.boxes.inbox.renew([held])

    assert line.proxy.cuts == 1
    assert line.boxes.inbox.renew([held]) == [(True, False)]


def test_a_renewal_that_is_cut_after_a_restart_is_an_error_of_ours(line: Line) -> None:
    """A server that was just started knows no script. The renewing thread knows StoreUnavailable and nothing else."""
    held = held_pair(line)
    line.record.client.script_flush()
    line.proxy.cut_next()

    with pytest.raises(StoreUnavailable):
        line.boxes.inbox.renew([held])
