"""Everybody asks at once: a hundred people, three questions each, an answer takes the engine one second.

`python -m benchmarks.load` starts a whole installation and a platform on this machine, pushes all questions together
and judges the platform's log: everything answered, once, in the order in which each person asked.
"""

import argparse
import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.figures import Figure, Reach, arguments_for, percentile, say, show
from prove.installation import installation
from prove.verdict import Sent, Verdict, judge
from sandbox.client import Event, SandboxClient
from sandbox.journal import ANSWERS
from sandbox.process import running_sandbox
from workers.engine.echo import split

MODES = ("stream", "card", "markdown")
ANSWER_S = 1.0
SLOTS = 128
PER_S_REACH, P99_REACH = Reach(">=", 60), Reach("<", 6)
POLL_S = 0.1


def question(mark: str) -> str:
    """What is asked. The mark stands between two `#`, so that its answer is known from all others."""
    return f"#{mark}# please tell me how the trains run today"


def settings(mode: str, answer_s: float = ANSWER_S) -> dict[str, str]:
    """The installation under test: an engine that takes `answer_s` for an answer, whatever else runs."""
    tokens = len(split(question("p0m0")))
    return {
        "SWITCHYARD_ENGINE": "echo",
        "SWITCHYARD_ECHO_TOKENS_PER_S": f"{tokens / answer_s:g}",
        "SWITCHYARD_SLOTS": str(SLOTS),
        "SWITCHYARD_REPLY_MODE": mode,
        "SWITCHYARD_CARD_CALLS_PER_S": "100000",
        "SWITCHYARD_LOG_LEVEL": "warning",
    }


def ask_all(client: SandboxClient, people: int, questions: int) -> list[Sent]:
    """Push all questions at once, each person's in order."""
    asked = [(f"person{who}", number, f"p{who}m{number}") for number in range(questions) for who in range(people)]
    told = client.send_many(
        [
            {"text": question(mark), "conversation": f"cid-{person}=", "sender": person, "staff": person}
            for person, _, mark in asked
        ]
    )
    return [Sent(answer["msgId"], *who) for answer, who in zip(told, asked, strict=True)]


def wait_for_answers(client: SandboxClient, sent: Sequence[Sent], since: int, limit_s: float) -> list[Event]:
    """The platform's log when everything is answered, or when the time is over."""
    deadline, events = time.monotonic() + limit_s, client.log(since)
    while judge(sent, events).answered < len(sent) and time.monotonic() < deadline:
        time.sleep(POLL_S)
        events += client.log(events[-1]["seq"] if events else since)
    return events


def figures(mode: str, sent: Sequence[Sent], events: Sequence[Event]) -> list[Figure]:
    """What the log says."""
    verdict = judge(sent, events)
    pushed = {event["msgId"]: event["mono_s"] for event in events if event["kind"] == "pushed"}
    answered = {event["text"].split("#")[1]: event["mono_s"] for event in events if _is_answer(event)}
    took_s = [answered[one.mark] - pushed[one.msg_id] for one in sent if one.mark in answered]
    wall_s = max(answered.values(), default=math.nan) - min(pushed.values(), default=math.nan)
    return [
        *_promises(mode, verdict),
        Figure(f"{mode}: answers a second", len(answered) / wall_s, "/s", PER_S_REACH),
        Figure(f"{mode}: push to answer, p50", percentile(took_s, 0.5), "s"),
        Figure(f"{mode}: push to answer, p99", percentile(took_s, 0.99), "s", P99_REACH),
    ]


def _promises(mode: str, verdict: Verdict) -> list[Figure]:
    counts = [
        Figure(f"{mode}: {name.replace('_', ' ')}", len(found), "", Reach("=", 0))
        for name, found in verdict.faults().items()
    ]
    return [Figure(f"{mode}: answered", verdict.answered, "", Reach("=", verdict.sent)), *counts]


def _is_answer(event: Event) -> bool:
    return event["kind"] in ANSWERS and str(event["text"]).count("#") >= 2


def run(mode: str, people: int, questions: int) -> list[Figure]:
    """One mode on an installation of its own."""
    say(f"{mode}: starting")
    with (
        tempfile.TemporaryDirectory(prefix="switchyard-load-") as folder,
        running_sandbox() as sandbox,
        installation(Path(folder), sandbox, settings(mode)),
        SandboxClient(sandbox.url) as client,
    ):
        _warm_up(client)
        since = client.last()
        say(f"{mode}: {people} people ask {questions} questions each")
        sent = ask_all(client, people, questions)
        return figures(mode, sent, wait_for_answers(client, sent, since, limit_s=20 + questions * 10 * ANSWER_S))


def _warm_up(client: SandboxClient) -> None:
    """One answer has gone all the way before the rush."""
    said = client.send_text("good morning", conversation="cid-early=", sender="early", staff="early")
    if client.wait_for_reply(said["conversation"], said["seq"], 30) is None:
        raise TimeoutError("the first message got no answer")


def read_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = arguments_for(__doc__)
    parser.add_argument("--people", type=int, default=100, help="how many ask")
    parser.add_argument("--questions", type=int, default=3, help="how many questions each")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=("stream",), help="how replies are shown")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    arguments = read_arguments(argv)
    found = [one for mode in arguments.modes for one in run(mode, arguments.people, arguments.questions)]
    show(found, arguments)


if __name__ == "__main__":
    main()
