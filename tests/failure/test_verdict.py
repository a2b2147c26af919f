"""The checker itself: a right log passes, and a log that is broken in any one way does not."""

from typing import Any

import pytest

from prove.verdict import Sent, Verdict, judge

Log = list[dict[str, Any]]
MESSAGES = [Sent("m1", "ann", 0, "a0"), Sent("m2", "ann", 1, "a1"), Sent("m3", "bob", 0, "b0")]


def a_log() -> Log:
    """Two messages of Ann and one of Bob, acknowledged and answered in order, each in a card."""
    log: Log = [{"kind": "acked", "msgId": message.msg_id} for message in MESSAGES]
    for card, message in enumerate(MESSAGES):
        log.append({"kind": "created", "card": card, "person": message.person, "text": "Thinking…"})
        log.append({"kind": "finished", "card": card, "person": message.person, "text": f"#{message.mark}# yes"})
    return numbered(log)


def numbered(log: Log) -> Log:
    for number, event in enumerate(log):
        event["seq"] = number
    return log


def faults(verdict: Verdict) -> dict[str, list[str]]:
    return {name: found for name, found in verdict.faults().items() if found}


def test_a_right_log_passes() -> None:
    verdict = judge(MESSAGES, a_log())

    assert (verdict.sent, verdict.accepted, verdict.answered) == (3, 3, 3)
    assert verdict.holds()
    assert faults(verdict) == {}


def test_what_was_never_acknowledged_was_not_promised() -> None:
    log = [event for event in a_log() if event.get("msgId") != "m3" and event.get("person") != "bob"]

    verdict = judge(MESSAGES, log)

    assert (verdict.sent, verdict.accepted) == (3, 2)
    assert verdict.holds()


def test_a_run_without_messages_proves_nothing() -> None:
    assert not judge([], []).holds()


def test_a_message_that_came_again_later_may_be_answered_later() -> None:
    """Its first frame died with its connection; the later one was already being answered."""
    log = a_log()
    log[0], log[1] = log[1], log[0]
    answers = log[3:]
    log = [*log[:3], *answers[2:4], *answers[:2], *answers[4:]]

    assert judge(MESSAGES, numbered(log)).holds()


def lost(log: Log) -> Log:
    return [event for event in log if event.get("card") != 1]


def doubled(log: Log) -> Log:
    return [*log, {**log[-1], "kind": "webhook"}]


def out_of_order(log: Log) -> Log:
    return [*log[:3], *log[5:7], *log[3:5], *log[7:]]


def wrong_recipient(log: Log) -> Log:
    return [*log[:-1], {**log[-1], "person": "ann"}]


def unexpected(log: Log) -> Log:
    return [*log, {"kind": "proactive", "person": "ann", "text": "Sorry, I tried several times."}]


def left_typing(log: Log) -> Log:
    return [*log, {"kind": "created", "card": 99, "person": "ann", "text": "Thinking…"}]


def test_a_notice_is_the_answer_of_the_message_that_its_card_names() -> None:
    """An apology carries no mark of the person's."""
    ann = Sent("m1", "ann", 0, "a0", card="card-1")
    log = numbered([{"kind": "acked", "msgId": "m1"}, {"kind": "created", "card": "card-1", "person": "ann"}])

    apology = {"seq": 9, "kind": "finished", "card": "card-1", "person": "ann", "text": "Sorry, I tried."}
    verdict = judge([ann], [*log, apology])

    assert (verdict.answered, verdict.notices) == (1, 1)
    assert verdict.holds()
    assert not judge([ann], [*log, apology, {**apology, "seq": 10, "text": "#a0# yes"}]).holds()


def test_a_shared_apology_answers_as_many_messages_as_it_says() -> None:
    messages = [Sent(f"m{n}", "ann", n, f"a{n}") for n in range(3)]
    acked = numbered([{"kind": "acked", "msgId": one.msg_id} for one in messages])
    apology = {"seq": 9, "kind": "webhook", "session_msgId": "m0", "person": "ann", "text": "Sorry for two."}

    verdict = judge(messages, [*acked, apology], shared={"Sorry for two.": 2})

    assert (verdict.answered, verdict.notices, verdict.lost) == (2, 2, ["a2"])


@pytest.mark.parametrize("breakage", [lost, doubled, out_of_order, wrong_recipient, unexpected, left_typing])
def test_each_kind_of_fault_is_found(breakage: Any) -> None:
    verdict = judge(MESSAGES, numbered(breakage(a_log())))

    assert not verdict.holds()
    assert list(faults(verdict)) == [breakage.__name__]


def test_a_negative_acknowledgement_is_no_acceptance() -> None:
    log = a_log()
    log[2]["code"] = 500

    assert judge(MESSAGES, log).accepted == 2
