"""Drafts: a card that types while the answer is written, and what becomes of it when the platform is in trouble."""

import pytest

from app.errors import LeaseLost
from app.mailbox import DraftLease
from tests.samples import a_message
from tests.workers.desk import House
from tests.workers.recording_outlet import BUSY, NO_CARDS, UNKNOWN, Seen, Trouble
from workers.delivery import show


def test_a_card_that_was_opened_on_record_alone_is_opened(house: House) -> None:
    """The record is written before the call, and the platform may have been too busy for the call."""
    house.outlet.fails("open", BUSY)
    message = house.gets(a_message(text="the answer"))
    house.desk.typing.show(house.take(message), message.address, "Thinking")
    house.deliver(message)
    house.expire(message)
    house.turn(message)

    house.deliver_all(message)

    assert house.outlet.seen == [Seen("card", "the answer")]


def test_after_a_refusal_nothing_more_is_typed(house: House) -> None:
    """Each draft would be one more refused call."""
    house.outlet.fails("open", NO_CARDS)
    message = house.gets(a_message(text="the answer"))
    held = house.take(message)
    for text in ("Thinking", "the"):
        house.desk.typing.show(held, message.address, text)
        house.deliver(message)

    assert house.outlet.calls == ["open"]


def test_a_draft_opens_the_card_and_the_next_one_updates_it(house: House) -> None:
    message = house.gets(a_message())
    held = house.take(message)
    for text in ("Thinking", "hel", "hello"):
        house.desk.typing.show(held, message.address, text)
        house.deliver(message)

    assert house.outlet.calls == ["open", "update", "update"]
    assert house.outlet.seen == [Seen("card", "hello", finished=False)]


@pytest.mark.parametrize("trouble", [BUSY, UNKNOWN, Trouble(NO_CARDS)], ids=["busy", "unknown", "refused"])
def test_a_draft_may_be_skipped_the_answer_never(house: House, trouble: Trouble) -> None:
    house.outlet.fails("open", trouble)
    message = house.gets(a_message(text="hello"))
    house.desk.typing.show(house.take(message), message.address, "hel")

    house.deliver(message)
    house.expire(message)
    house.turn(message)
    house.deliver_all(message)

    assert house.outlet.seen == [Seen("card", "hello")]


def test_a_draft_is_not_shown_without_cards(house: House) -> None:
    house.outlet.takes_cards = False
    message = house.gets(a_message())
    house.desk.typing.show(house.take(message), message.address, "hel")

    house.deliver(message)

    assert house.outlet.calls == []


def test_a_draft_never_appears_after_the_answer(house: House) -> None:
    """A sender took the draft, slept, and the answer went out meanwhile."""
    message = house.gets(a_message(text="hello"))
    held = house.take(message)
    house.desk.typing.show(held, message.address, "hel")
    house.deliver(message)
    house.desk.typing.show(held, message.address, "hell")
    slept = house.boxes.outbox.lease(message.conversation, "send")
    assert isinstance(slept, DraftLease)
    house.expire(message)
    house.turn(message)
    house.expire(message, "outbox")
    house.deliver_all(message)

    with pytest.raises(LeaseLost):
        show(slept, house.sending)
    house.deliver(message)

    assert house.outlet.seen == [Seen("card", "hello")]
    assert house.outlet.typed == ["hel", "hello"]
    assert house.draft(message) == {}
