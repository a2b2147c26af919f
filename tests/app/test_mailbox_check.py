"""The question before what cannot be undone: does this lease still hold, and for how long?"""

import pytest

from app import keys
from app.errors import LeaseLost
from app.mailbox import Lease
from app.message import Message
from app.redis import Store
from tests.conftest import Boxes
from tests.samples import a_message, notices

LEASE_S = 5.0  # of the fixture `boxes`


@pytest.fixture
def message(boxes: Boxes) -> Message:
    message = a_message()
    boxes.inbox.accept(message, "text", notices=notices(message))
    return message


def leased(boxes: Boxes, message: Message) -> Lease:
    held = boxes.inbox.lease(message.conversation, "text")
    assert isinstance(held, Lease)
    return held


def ends(store: Store, message: Message) -> tuple[int, int]:
    """When the lease ends, in the state and in the index of what is due; milliseconds."""
    conversation = message.conversation
    until = store.client.hget(keys.state("inbox", conversation), "until")
    due = store.client.zscore(keys.due("inbox", keys.shard_of(conversation)), conversation)
    return int(until or 0), int(due or 0)


def shorten(store: Store, message: Message, *, by_s: float) -> None:
    store.client.hincrby(keys.state("inbox", message.conversation), "until", -round(by_s * 1000))


def test_a_lease_that_has_long_to_go_is_left_as_it_is(boxes: Boxes, store: Store, message: Message) -> None:
    """A write costs a sync of the disk, and this is asked before every call to a platform."""
    held = leased(boxes, message)
    store.client.hincrby(keys.state("inbox", message.conversation), "until", 3_600_000)
    before = ends(store, message)

    left_s = boxes.inbox.check(held)

    assert LEASE_S < left_s <= 3600 + LEASE_S
    assert ends(store, message) == before


@pytest.mark.parametrize("by_s", [LEASE_S / 2, 2 * LEASE_S], ids=["half is over", "all is over"])
def test_a_lease_that_ends_soon_is_lengthened(boxes: Boxes, store: Store, message: Message, by_s: float) -> None:
    """Also after its end, when nobody else took it: as a renewal does."""
    held = leased(boxes, message)
    shorten(store, message, by_s=by_s)
    before, _ = ends(store, message)

    left_s = boxes.inbox.check(held)

    until, due = ends(store, message)
    assert left_s == LEASE_S
    assert before < until == due


def test_a_lease_that_somebody_took_over_is_lost(boxes: Boxes, store: Store, message: Message) -> None:
    slept = leased(boxes, message)
    shorten(store, message, by_s=2 * LEASE_S)
    held = leased(boxes, message)

    with pytest.raises(LeaseLost):
        boxes.inbox.check(slept)

    assert boxes.inbox.check(held) > 0


def test_a_lease_that_was_given_back_is_lost(boxes: Boxes, message: Message) -> None:
    """What follows belongs to whoever takes it next."""
    held = leased(boxes, message)
    boxes.inbox.release(held)

    with pytest.raises(LeaseLost):
        boxes.inbox.check(held)
