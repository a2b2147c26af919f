"""Replies that cannot be sent, or that kill their senders: given up in the end, told to the person, in nobody's way."""

import json

from structlog.testing import capture_logs

from app.errors import PlatformRefused
from tests.samples import a_message
from tests.workers.desk import House
from tests.workers.recording_outlet import DIES_AFTER, DIES_BEFORE, Seen


def test_a_reply_that_is_refused_three_times_in_every_way_is_a_dead_letter(house: House) -> None:
    """And the next one goes out: a bad reply blocks nobody for ever."""
    refused = [PlatformRefused("robot.gone")] * 3
    house.outlet.fails("open", *refused)
    house.outlet.fails("webhook", *refused)
    house.outlet.fails("proactive", *refused)
    message, _ = house.owes(a_message(), "refused words"), house.owes(a_message(), "the next one")

    with capture_logs() as logs:
        house.deliver_all(message)

    assert house.outlet.texts() == ["the next one"]
    (letter,) = house.dead_letters(message)
    assert (letter["id"], letter["reason"]) == (message.id, "the platform refused it in every way")
    assert letter["error"] == "robot.gone"
    assert json.loads(letter["reply"])["text"] == "refused words"
    assert [after_s for _, _, after_s in house.wakes.later] == [1.0, 2.0]
    assert "refused words" not in str(logs)


def test_a_reply_whose_sender_vanished_five_times_is_a_dead_letter_and_an_apology_in_its_place(house: House) -> None:
    """The person waits for something; what cannot be sent at all is not tried once more with other words for ever."""
    house.outlet.fails("open", *[DIES_BEFORE] * 5)
    message, _ = house.owes(a_message(), "kills"), house.owes(a_message(), "the next one")

    house.deliver_all(message)

    assert house.outlet.texts() == [house.wording.say("apology_failed"), "the next one"]
    (letter,) = house.dead_letters(message)
    assert (letter["id"], letter["reason"]) == (message.id, "its sender vanished each time")


def test_an_apology_that_kills_its_sender_is_not_followed_by_another(house: House) -> None:
    house.outlet.fails("open", *[DIES_BEFORE] * 10)
    message, _ = house.owes(a_message(), "kills"), house.owes(a_message(), "the next one")

    house.deliver_all(message)

    assert house.outlet.texts() == ["the next one"]
    assert len(house.dead_letters(message)) == 2


def test_an_answer_that_was_shown_before_its_sender_vanished_is_not_followed_by_an_apology(house: House) -> None:
    """The apology finishes the same card by a call with the same key, and the platform shows nothing new."""
    house.outlet.fails("finish", *[DIES_AFTER] * 5)
    message = house.owes(a_message(), "the answer")

    house.deliver_all(message)

    assert house.outlet.texts() == ["the answer"]


def test_a_reply_goes_out_after_four_kills_of_its_sender(house: House) -> None:
    """Whoever kills senders must not cost an answer."""
    house.outlet.fails("open", *[DIES_BEFORE] * 4)
    message = house.owes(a_message(), "the answer")

    house.deliver_all(message)

    assert house.outlet.seen == [Seen("card", "the answer")]
    assert house.dead_letters(message) == []


def test_one_suspect_reply_is_sent_at_a_time(house: House) -> None:
    """What kills senders soon kills alone; another person's answer must not go down with it."""
    first, other = house.owes(a_message(sender="first"), "one"), house.owes(a_message(sender="other"), "two")
    for message in (first, other):
        house.rewrite_head(message, "outbox", vanished=2)
    house.outlet.before_next_call = lambda: house.deliver(other)

    house.deliver(first)

    assert house.outlet.texts() == ["one"]
    assert house.wakes.later == [("send", other.conversation, 0.5)]
    house.deliver_all(other)
    assert house.outlet.texts() == ["one", "two"]


def test_a_reply_that_cannot_be_read_blocks_nobody(house: House) -> None:
    message, _ = house.owes(a_message(), "lost"), house.owes(a_message(), "the next one")
    house.rewrite_head(message, "outbox", body="{}")

    house.deliver_all(message)

    assert house.outlet.texts() == ["the next one"]
    assert [letter["reason"] for letter in house.dead_letters(message)] == ["it cannot be read"]
