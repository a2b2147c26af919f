"""One delivery, rule by rule: what people see on a platform that refuses, is busy, times out, or watches us die."""

import pytest

from app.errors import OutcomeUnknown, PlatformBusy, PlatformRefused
from app.mailbox import Idle
from tests.samples import a_message
from tests.workers.desk import House, meanwhile
from tests.workers.recording_outlet import (
    BUSY,
    DIES_AFTER,
    DIES_BEFORE,
    DONE_BUT_UNKNOWN,
    NO_CARDS,
    UNKNOWN,
    Seen,
    Trouble,
)

TROUBLES = {
    "busy": (BUSY,),
    "unknown": (UNKNOWN,),
    "unknown but done": (DONE_BUT_UNKNOWN,),
    "unknown but done, twice": (DONE_BUT_UNKNOWN, DONE_BUT_UNKNOWN),
    "dies before the call": (DIES_BEFORE,),
    "dies after the call": (DIES_AFTER,),
    "dies after the call, twice": (DIES_AFTER, DIES_AFTER),
    "busy, then dies": (BUSY, DIES_AFTER),
    "dies, then unknown": (DIES_AFTER, UNKNOWN),
}


LONG = 20  # characters; a card is opened with a shorter word
A, B = "a" * LONG, "b" * LONG


@pytest.mark.parametrize("call", ["open", "finish"])
@pytest.mark.parametrize("troubles", TROUBLES.values(), ids=TROUBLES)
def test_a_person_sees_one_finished_card_whatever_fails(house: House, call: str, troubles: tuple[Trouble, ...]) -> None:
    """The same call has the same key, whoever repeats it; no other way is tried without a proof of refusal."""
    house.outlet.fails(call, *troubles)
    message = house.owes(a_message(), "the answer")

    house.deliver_all(message)

    assert house.outlet.seen == [Seen("card", "the answer")]
    assert not house.boxes.outbox.card_open(message.conversation, message.id)
    assert house.dead_letters(message) == []


def test_a_reply_that_was_sent_is_not_sent_again(house: House) -> None:
    message = house.owes(a_message(), "the answer")

    house.deliver(message)
    house.deliver(message)

    assert house.outlet.calls == ["open", "finish"]


def test_a_card_that_a_crash_left_typing_is_finished_by_the_next_sender(house: House) -> None:
    message = house.gets(a_message())
    held = house.take(message)
    house.desk.typing.show(held, message.address, "hel")
    house.outlet.fails("open", DIES_AFTER)
    with pytest.raises(SystemExit):
        house.deliver(message)
    house.expire(message, "outbox")
    assert house.outlet.seen == [Seen("card", "hel", finished=False)]
    house.expire(message)
    house.turn(message)

    house.deliver_all(message)

    assert house.outlet.seen == [Seen("card", "hello")]


@pytest.mark.parametrize("trouble", [DIES_AFTER, DONE_BUT_UNKNOWN], ids=["dies", "unknown"])
@pytest.mark.parametrize(("unsure", "seen"), [("resend", 2), ("skip", 1)])
def test_a_webhook_call_whose_end_nobody_knows(house: House, unsure: str, seen: int, trouble: Trouble) -> None:
    """It has no key: a rare double or a rare loss, as the installation chooses."""
    house.sending.unsure = unsure  # type: ignore[assignment]
    house.sending.cards = lambda: False
    house.outlet.fails("webhook", trouble)
    message = house.owes(a_message(), "the answer")

    house.deliver_all(message)

    assert house.outlet.seen == [Seen("webhook", "the answer")] * seen


def test_with_skip_a_call_that_was_not_made_is_lost(house: House) -> None:
    house.sending.unsure = "skip"
    house.sending.cards = lambda: False
    house.outlet.fails("webhook", DIES_BEFORE)
    message, follower = house.owes(a_message(), "lost"), house.owes(a_message(), "the next one")

    house.deliver_all(message)

    assert house.outlet.texts() == ["the next one"]
    assert house.items("outbox", follower) == []


@pytest.mark.parametrize("unsure", ["resend", "skip"])
def test_a_busy_webhook_was_proved_undone_and_is_sent_once(house: House, unsure: str) -> None:
    house.sending.unsure = unsure  # type: ignore[assignment]
    house.sending.cards = lambda: False
    house.outlet.fails("webhook", BUSY, BUSY)
    message = house.owes(a_message(), "the answer")

    house.deliver_all(message)

    assert house.outlet.seen == [Seen("webhook", "the answer")]


def test_a_card_that_cannot_be_opened_goes_by_the_webhook(house: House) -> None:
    house.outlet.fails("open", NO_CARDS)
    message = house.owes(a_message(), "the answer")

    house.deliver_all(message)

    assert house.outlet.seen == [Seen("webhook", "the answer")]


def test_a_card_that_cannot_be_finished_is_ended_and_the_answer_goes_by_the_webhook(house: House) -> None:
    """No card types for ever."""
    house.outlet.fails("finish", NO_CARDS)
    message = house.owes(a_message(), "the answer")

    house.deliver_all(message)

    ended = Seen("card", house.wording.say("card_given_up"))
    assert house.outlet.seen == [ended, Seen("webhook", "the answer")]


def test_a_refused_webhook_goes_by_a_proactive_message(house: House) -> None:
    house.outlet.fails("open", NO_CARDS)
    house.outlet.fails("webhook", PlatformRefused("webhook.expired"))
    message = house.owes(a_message(), "the answer")

    house.deliver_all(message)

    assert house.outlet.seen == [Seen("proactive", "the answer")]
    assert house.outlet.calls == ["open", "webhook", "proactive"]


def test_a_crash_between_two_ways_goes_on_with_the_second(house: House) -> None:
    """What was refused is on record: it is not tried again."""
    house.outlet.fails("open", NO_CARDS)
    house.outlet.fails("webhook", PlatformRefused("webhook.expired"))
    house.outlet.fails("proactive", DIES_BEFORE)
    message = house.owes(a_message(), "the answer")

    house.deliver_all(message)

    assert house.outlet.calls == ["open", "webhook", "proactive", "proactive"]
    assert house.outlet.seen == [Seen("proactive", "the answer")]


def test_a_busy_platform_never_makes_a_dead_letter(house: House) -> None:
    """Only permanent refusals and vanished senders count."""
    house.outlet.fails("open", *[BUSY] * 8)
    house.outlet.fails("finish", *[UNKNOWN] * 8)
    message = house.owes(a_message(), "the answer")

    house.deliver_all(message)

    assert house.outlet.seen == [Seen("card", "the answer")]
    assert house.dead_letters(message) == []


def test_a_long_text_goes_into_the_card_and_the_rest_as_messages_in_order(house: House) -> None:
    house.outlet.longest = LONG
    message = house.owes(a_message(), A + B + "cc")

    house.deliver_all(message)

    assert house.outlet.seen == [Seen("card", A), Seen("webhook", B), Seen("webhook", "cc")]


@pytest.mark.parametrize("call", ["open", "finish", "webhook"])
@pytest.mark.parametrize("nth", [0, 1])
def test_a_crash_between_parts_goes_on_at_the_right_part(house: House, call: str, nth: int) -> None:
    """A part in a card is never doubled; a message is doubled at most once, and none is lost or out of order."""
    house.outlet.longest = LONG
    message = house.owes(a_message(), A + B + "cc")
    house.outlet.dies_in(call, nth)

    house.deliver_all(message)

    doubled = {("webhook", 0): [B], ("webhook", 1): ["cc"]}.get((call, nth), [])
    assert house.outlet.texts() == sorted([A, B, "cc", *doubled])
    assert all(seen.finished for seen in house.outlet.seen)


def test_a_part_that_was_refused_by_the_webhook_does_not_repeat_the_parts_before(house: House) -> None:
    house.outlet.longest = LONG
    house.sending.cards = lambda: False
    house.outlet.fails("webhook", Trouble(OutcomeUnknown("x")), PlatformRefused("gone"), PlatformRefused("gone"))
    message = house.owes(a_message(), A + B)

    house.deliver_all(message)

    assert house.outlet.texts() == [A, B]


@pytest.mark.parametrize("trouble", [None, DIES_AFTER, DONE_BUT_UNKNOWN], ids=["calm", "dies", "unknown"])
def test_a_person_is_told_that_the_audit_refused_the_answer(house: House, trouble: Trouble | None) -> None:
    """Once, in the card that typed; and the refused text goes no other way."""
    house.outlet.unsafe = "forbidden"
    message = house.gets(a_message(text="forbidden words"))
    house.desk.typing.show(house.take(message), message.address, "Thinking")
    house.deliver(message)
    house.expire(message)
    house.turn(message)
    if trouble:
        house.outlet.dies_in("finish", 1, trouble)

    house.deliver_all(message)

    assert house.outlet.seen == [Seen("card", house.wording.say("refused_by_audit"))]


def test_replies_of_a_conversation_keep_their_order_on_a_busy_platform(house: House) -> None:
    house.outlet.fails("open", BUSY, UNKNOWN)
    house.outlet.fails("finish", DONE_BUT_UNKNOWN, BUSY, BUSY)
    messages = [house.owes(a_message(), f"answer {number}") for number in range(4)]

    house.deliver_all(messages[0])

    assert house.outlet.seen == [Seen("card", f"answer {number}") for number in range(4)]


def test_a_postponed_reply_waits_for_the_platforms_own_time(house: House) -> None:
    """No thread sleeps for it, and an early wake-up calls nobody."""
    house.outlet.fails("open", PlatformBusy("QpsLimit", retry_after_s=30.0))
    message = house.owes(a_message())

    house.deliver(message)
    house.deliver(message)

    assert house.outlet.calls == ["open"]
    assert house.wakes.later == [("send", message.conversation, 30.0)]


def test_two_senders_do_not_send_for_one_conversation_at_once(house: House) -> None:
    message = house.owes(a_message(), "the answer")
    house.boxes.outbox.lease(message.conversation, "send")

    house.deliver(message)

    assert house.outlet.calls == []


def test_a_sender_that_lost_its_lease_stops_before_the_next_call(house: House) -> None:
    """It slept; what it would send next belongs to somebody else now."""
    house.sending.cards = lambda: False
    house.outlet.longest = LONG
    message = house.owes(a_message(), A + B)
    house.outlet.before_next_call = lambda: house.steal(message, "outbox")

    house.deliver(message)

    assert house.outlet.texts() == [A]


def test_a_reply_that_waited_too_long_is_a_dead_letter(house: House) -> None:
    """A late answer out of nowhere would only confuse."""
    house.sending.reply_expires_s = -1.0
    message = house.owes(a_message())

    house.deliver(message)

    assert house.outlet.seen == []
    assert [letter["id"] for letter in house.dead_letters(message)] == [message.id]


def test_a_leaving_sender_takes_nothing(house: House) -> None:
    message = house.owes(a_message())
    house.sending.draining.set()

    house.deliver(message)

    assert house.outlet.calls == []
    assert house.boxes.outbox.lease(message.conversation, "send") is not Idle.BUSY


def test_after_many_replies_the_others_have_their_turn(house: House) -> None:
    """One long outbox does not keep a thread to itself."""
    message, *_ = [house.owes(a_message()) for _ in range(21)]
    house.wakes.take()

    house.deliver(message)

    assert len(house.outlet.seen) == 20
    assert house.wakes.take() == ["send"]


def test_conversations_never_wait_for_each_other(house: House) -> None:
    slow, quick = house.owes(a_message(sender="slow")), house.owes(a_message(sender="quick"), "quick")
    house.outlet.before_next_call = lambda: house.deliver(quick)

    with meanwhile(house.deliver, slow):
        pass

    assert house.outlet.texts() == ["quick", "hi"]


def test_an_outcome_that_stays_unknown_is_repeated_a_few_times_only(house: House) -> None:
    """A platform that answers 504 to what it has sent must not send it for ever; the reply is kept as a dead letter."""
    house.sending.cards = lambda: False
    house.outlet.fails("webhook", *[DONE_BUT_UNKNOWN] * 50)
    message = house.owes(a_message(), "the answer")

    house.deliver_all(message)

    assert house.outlet.texts() == ["the answer"] * 5
    assert len(house.dead_letters(message)) == 1


def test_what_the_audit_refused_goes_no_other_way(house: House) -> None:
    """Not even when it refuses the apology in the card as well."""
    house.outlet.fails("finish", *[PlatformRefused("param.contentUnsafe")] * 2)
    message = house.owes(a_message(), "the answer")

    house.deliver_all(message)

    assert "the answer" not in house.outlet.texts()
    assert house.outlet.seen[-1] == Seen("webhook", house.wording.say("refused_by_audit"))


def test_a_throttled_card_costs_no_call_for_a_card_that_does_not_exist(house: House) -> None:
    """Calls are what the platform is short of."""
    house.outlet.fails("open", BUSY, BUSY)
    message = house.owes(a_message(), "the answer")

    house.deliver_all(message)

    assert house.outlet.calls == ["open", "open", "open", "finish"]
