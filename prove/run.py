"""One run: people talk to a whole installation while its processes are killed and frozen; then the log is judged."""

import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prove.installation import Fault, Installation, Say, installation
from prove.plan import LEASE_S, Plan
from prove.report import Report
from prove.verdict import Sent, judge
from sandbox.client import SandboxClient
from sandbox.process import running_sandbox

REDELIVER_AFTER_S = 2.0
FREEZE_S = LEASE_S + 1.5
SILENCE_S = 25.0  # nothing new for so long: nothing will come any more
SETTLE_S = LEASE_S + 2.0  # after the last answer, for those that would come twice
SHORT, LONG = (
    "says that things go on",
    "says " + "on and on and " * 8,
)  # about 1 s and 3.5 s: shorter, longer than a lease


def make_run(plan: Plan, say: Say) -> Report:
    """Make one run.

    Raises:
        RunFailed: it could not be started, or a role did not come back.
    """
    with (
        tempfile.TemporaryDirectory(prefix="switchyard-prove-") as folder,
        running_sandbox() as sandbox,
        installation(Path(folder), sandbox, plan.environment()) as house,
        SandboxClient(sandbox.url) as client,
    ):
        say(f"{plan.mode}: ready; {plan.people} people say {plan.messages_each} things each")
        client.fault("redeliver_unacked", after_s=REDELIVER_AFTER_S)
        sent, faults = _converse(plan, client, house, say)
        _wait_for_answers(sent, client, say)
        return Report(plan.mode, plan.seed, judge(sent, client.log()), faults)


def _converse(plan: Plan, client: SandboxClient, house: Installation, say: Say) -> tuple[list[Sent], list[Fault]]:
    """Everybody talks; while the answers are being written, something breaks."""
    chance = random.Random(plan.seed)
    sent: list[Sent] = []
    done: list[Fault] = []
    planned = plan.faults()
    chance.shuffle(planned)
    for number in range(plan.messages_each):
        sent += _say_all(plan, number, client)
        time.sleep(chance.uniform(0.1, 0.5))
        for what, role in planned[len(done) : round((number + 1) * len(planned) / plan.messages_each)]:
            done.append(house.kill(role, chance) if what == "kill" else house.freeze(role, chance, FREEZE_S))
            say(f"{plan.mode}: {what} {role} (pid {done[-1].pid}), whole again after {done[-1].away_s:.1f} s")
    return sent, done


def _say_all(plan: Plan, number: int, client: SandboxClient) -> list[Sent]:
    """One message of everybody: some are long, some are commands, some come twice although they were acknowledged."""
    marks = {f"person{index}": f"p{index}m{number}" for index in range(plan.people)}
    told = client.send_many(
        [_message(person, mark, index, index + number) for index, (person, mark) in enumerate(marks.items())]
    )
    return [
        Sent(answer["msgId"], person, number, mark) for answer, (person, mark) in zip(told, marks.items(), strict=True)
    ]


def _message(person: str, mark: str, index: int, kind: int) -> dict[str, Any]:
    """A redelivery wakes its conversation and so would hide that nobody else did: it happens to some people only."""
    command = "/slow " if kind % 2 else ""  # for the pool `default`
    text = f"{command}#{mark}# {LONG if kind % 4 == 0 else SHORT}".strip()
    again = {"redeliveries": 1, "redeliver_after_s": REDELIVER_AFTER_S} if index % 3 == 0 else {}
    return {"text": text, "conversation": f"cid-{person}=", "sender": person, "staff": person, **again}


def _wait_for_answers(sent: Sequence[Sent], client: SandboxClient, say: Say) -> None:
    """Until everything that was accepted is answered, or nothing comes any more; then a little longer."""
    moved_at, seen = time.monotonic(), -1
    while time.monotonic() - moved_at < SILENCE_S:
        verdict = judge(sent, client.log())
        if verdict.accepted == len(sent) and not verdict.lost and not verdict.left_typing:
            break
        if verdict.answered != seen:
            moved_at, seen = time.monotonic(), verdict.answered
            say(f"answered {verdict.answered} of {len(sent)}")
        time.sleep(0.5)
    time.sleep(SETTLE_S)
