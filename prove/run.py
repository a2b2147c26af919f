"""One run: people talk to a whole installation while everything in it is killed; then the platform's log is judged."""

import random
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from app.wording import Wording
from prove.breaking import Breaker, Fault, NobodyAtWork
from prove.crowd import AGAIN_AFTER_S, Crowd
from prove.installation import Say, installation
from prove.outside import servers_of
from prove.plan import LEASE_S, Plan
from prove.record import Record
from prove.report import Report
from prove.verdict import Verdict, judge
from sandbox.client import SandboxClient
from sandbox.process import running_sandbox

SILENCE_S = 30.0  # nothing new for so long: nothing will come any more
SETTLE_S = LEASE_S + 2.0  # after the last answer, for those that would come twice
CALM_SHARE = 6
LOOK_EVERY_S = 0.2
TALK_LIMIT_S = 60.0


def make_run(plan: Plan, say: Say) -> Report:
    """Make one run.

    Raises:
        RunFailed: it could not be started, or a role did not come back.
    """
    with tempfile.TemporaryDirectory(prefix="switchyard-prove-") as name:
        folder = Path(name)
        with (
            servers_of(plan, folder) as servers,
            running_sandbox() as sandbox,
            installation(folder, sandbox, {**plan.environment(), **servers.settings}) as house,
            SandboxClient(sandbox.url) as client,
        ):
            say(f"{plan.mode}: ready; {plan.people} people say {plan.messages} things, {plan.kills} kills")
            client.fault("redeliver_unacked", after_s=AGAIN_AFTER_S, times=1_000_000)
            crowd = Crowd(plan, client, sandbox.client_id)
            chance, began = random.Random(plan.seed), time.monotonic()
            with closing(Record(servers.record_url, crowd.conversations)) as record, _talking(crowd):
                breaker = Breaker(house, servers, record, crowd=crowd, client=client, chance=chance)
                faults = _break_things(plan, breaker, crowd, say)
                client.clear_route_faults()
                verdict = _wait_for_answers(plan, crowd, say)
            return Report(plan, verdict, faults, round(time.monotonic() - began, 1))


@contextmanager
def _talking(crowd: Crowd) -> Iterator[None]:
    """Have the people talk beside the block."""
    stop = threading.Event()
    talk = threading.Thread(target=crowd.talk, args=(stop,), name="crowd")
    talk.start()
    try:
        yield
    finally:
        stop.set()
        talk.join()


def _break_things(plan: Plan, breaker: Breaker, crowd: Crowd, say: Say) -> list[Fault]:
    """One thing after another, spread over all that is said."""
    steps, done = plan.steps(), []
    share = plan.messages / max(1, len(steps))
    for number, step in enumerate(steps):
        crowd.limit = plan.messages - round((len(steps) - number - 1) * share / 2)  # the others need somebody at work
        try:
            _await_talk(plan, crowd, number * share)
            crowd.aim = plan.people if len(crowd.sent) < (number + 1) * share else _calm(plan)
            fault = breaker.do(step)
        except NobodyAtWork as exc:  # the verdict will say why: too few messages, or something is stuck
            say(f"{plan.mode}: {number + 1}/{len(steps)} {step}: {exc}; nothing more is broken")
            break
        done.append(fault)
        slowest = f", moved again within {max(fault.recovery_s):.2f} s" if fault.recovery_s else ""
        held = f" (pid {fault.pid}) with {fault.held} in hand" if fault.pid else ""
        say(f"{plan.mode}: {number + 1}/{len(steps)} {step}{held}{slowest}; {len(crowd.sent)} said")
    crowd.aim, crowd.limit = plan.people, max(plan.messages, len(crowd.sent))
    return done


def _await_talk(plan: Plan, crowd: Crowd, enough: float) -> None:
    """Wait until so much has been said. Raises NobodyAtWork when the talk stands still."""
    said, since = -1, time.monotonic()
    while len(crowd.sent) < enough:
        crowd.aim = plan.people
        if len(crowd.sent) != said:
            said, since = len(crowd.sent), time.monotonic()
        if time.monotonic() - since > TALK_LIMIT_S:
            raise NobodyAtWork(f"nobody said anything for {TALK_LIMIT_S:.0f} s, {crowd.on_the_way} wait for answers")
        time.sleep(LOOK_EVERY_S)


def _calm(plan: Plan) -> int:
    """When the talk is ahead of what breaks, fewer talk; somebody always does."""
    return max(5, plan.people // CALM_SHARE)


def _wait_for_answers(plan: Plan, crowd: Crowd, say: Say) -> Verdict:
    """Until everything that was said is answered, or nothing comes any more; then a little longer."""
    moved_at, seen = time.monotonic(), -1
    while time.monotonic() - moved_at < SILENCE_S:
        crowd.look()
        if crowd.done and not crowd.on_the_way and not judge(crowd.sent, crowd.events).left_typing:
            break
        if len(crowd.events) != seen:
            moved_at, seen = time.monotonic(), len(crowd.events)
        time.sleep(LOOK_EVERY_S)
    say(f"{plan.mode}: {crowd.on_the_way} of {len(crowd.sent)} without an answer; a last look in {SETTLE_S:.0f} s")
    time.sleep(SETTLE_S)
    crowd.look()
    return judge(crowd.sent, crowd.events, shared=_shared_notices())


def _shared_notices() -> Mapping[str, int]:
    """What one apology for several messages says, and for how many it speaks."""
    say = Wording("en").say
    return {say("apology_stale", count=count): count for count in range(1, 100)}
