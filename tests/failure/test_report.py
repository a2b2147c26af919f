"""The end of a run: what may be seen twice and what may not, and how recovery is summed up."""

import json

from prove.breaking import Fault
from prove.plan import MODES, ROLES, Plan
from prove.report import Report, as_json, table
from prove.verdict import Sent, Verdict, judge

MESSAGE = Sent("m1", "ann", 0, "a0")


def seen(times: int) -> Verdict:
    """The verdict on one message that was shown so often."""
    acked = {"seq": 1, "kind": "acked", "msgId": "m1"}
    shown = [{"seq": 2 + n, "kind": "webhook", "person": "ann", "text": "#a0# yes"} for n in range(times)]
    return judge([MESSAGE], [acked, *shown])


def a_report(verdict: Verdict, *faults: Fault, mode: str = "markdown") -> Report:
    kills = sum(fault.what == "kill" for fault in faults)
    return Report(Plan(mode=mode, kills=kills), verdict, list(faults), 60.0)


def test_a_message_that_a_killed_sender_had_in_hand_may_be_seen_twice() -> None:
    report = a_report(seen(2), Fault("kill", "sender", 7, 1, ["m1"]))

    assert report.holds()
    assert report.excuses() == {"a0": "1: kill sender (pid 7)"}
    assert "a0 (1: kill sender (pid 7))" in table([report])


def test_a_sweeper_that_was_a_sender_counts_as_one() -> None:
    assert a_report(seen(2), Fault("kill", "sweeper", 7, 1, ["m1"])).holds()
    assert not a_report(seen(2), Fault("kill", "sweeper", 7, 1)).holds()


def test_a_sender_may_have_had_several_in_hand_but_in_all_no_more_than_faults() -> None:
    other = Sent("m2", "bob", 0, "b0")
    acked = [{"seq": 1, "kind": "acked", "msgId": "m1"}, {"seq": 2, "kind": "acked", "msgId": "m2"}]
    shown = [
        {"seq": 3 + n, "kind": "webhook", "person": one.person, "text": f"#{one.mark}#"}
        for n, one in enumerate([MESSAGE, MESSAGE, other, other])
    ]
    verdict = judge([MESSAGE, other], [*acked, *shown])

    both, another = Fault("kill", "sender", 7, 2, ["m1", "m2"]), Fault("freeze", "sender", 8, 1, ["m3"])

    assert not a_report(verdict, both).holds()
    assert a_report(verdict, both, another).holds()
    assert a_report(verdict, both).unexcused() == []
    assert a_report(verdict, another).unexcused() == ["a0", "b0"]


def test_nothing_else_excuses_a_second_sight() -> None:
    assert not a_report(seen(2), Fault("kill", "text", 7, 1, ["m1"])).holds()
    assert not a_report(seen(2), Fault("kill", "sender", 7, 1, ["m2"])).holds()
    assert not a_report(seen(2), Fault("kill", "sender", 7, 1, ["m1"]), mode="card").holds()


def test_a_run_with_fewer_kills_than_asked_for_proves_nothing() -> None:
    report = Report(Plan(kills=2), seen(1), [Fault("kill", "text", 7, 1)], 60.0)

    assert not report.holds()
    assert "only 1 of 2 kills" in table([report])


def test_recovery_is_measured_against_the_role_s_own_boot() -> None:
    times = [1.0] * 98 + [3.0, 9.0]
    report = a_report(seen(1), Fault("kill", "text", 7, 100, [], times, boot_s=4.0))

    found = json.loads(as_json([report]))["runs"][0]["recovery"][0]

    assert (found["median_s"], found["p99_s"], found["worst_s"]) == (1.0, 3.0, 9.0)
    assert (found["promise_s"], found["kept"]) == (6.0, False)
    assert report.holds()


def test_the_same_seed_makes_the_same_schedule() -> None:
    steps = [Plan(mode=mode, kills=100, seed=3).steps() for mode in ("card", "card", "markdown")]

    assert steps[0] == steps[1]
    assert [step for step in steps[0] if step.what == "kill"] == [step for step in steps[2] if step.what == "kill"]
    assert steps[0] != Plan(mode="card", kills=100, seed=4).steps()


def test_every_role_is_killed_as_often_as_any_other() -> None:
    for mode in MODES:
        killed = [step.whom for step in Plan(mode=mode, kills=100).steps() if step.what == "kill"]
        assert {role: killed.count(role) for role in ROLES} == dict.fromkeys(ROLES, 10)
