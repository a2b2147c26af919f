"""What our own path costs: frame in to reply out, with an engine that answers at once, everything idle.

`python -m benchmarks.overhead` starts a whole installation and a platform on this machine for each mode of reply,
and says one thing at a time, each in a conversation of its own. Both times are the platform's, by one clock.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.figures import Figure, Reach, arguments_for, percentile, say, show
from prove.installation import installation
from sandbox.client import SandboxClient
from sandbox.process import running_sandbox

MODES = ("stream", "card", "markdown")
P50_REACH, P99_REACH = Reach("<", 20), Reach("<", 80)
WARM_UP = 20  # connections are made and code is loaded with the first messages
ANSWER_LIMIT_S = 30.0
PAUSE_S = 0.02  # what follows an answer in the record is over before the next message comes


def settings(mode: str) -> dict[str, str]:
    """The installation under test: no model, and no limit of calls that the measurement could meet."""
    return {
        "SWITCHYARD_ENGINE": "echo",
        "SWITCHYARD_ECHO_TOKENS_PER_S": "0",
        "SWITCHYARD_REPLY_MODE": mode,
        "SWITCHYARD_CARD_CALLS_PER_S": "100000",
        "SWITCHYARD_LOG_LEVEL": "warning",
    }


def measure(client: SandboxClient, count: int, name: str) -> list[float]:
    """Milliseconds from frame to answer of `count` messages, one at a time, in the order of sending.

    Raises:
        TimeoutError: a message was not answered.
    """
    return [_one(client, f"{name}{number}") for number in range(count)]


def _one(client: SandboxClient, person: str) -> float:
    said = client.send_text("how are things", conversation=f"cid-{person}=", sender=person, staff=person)
    answer = client.wait_for_reply(said["conversation"], said["seq"], ANSWER_LIMIT_S)
    if answer is None:
        raise TimeoutError(f"{person} got no answer within {ANSWER_LIMIT_S:.0f} s")
    time.sleep(PAUSE_S)
    pushed = next(event for event in client.log(said["seq"], "pushed") if event["msgId"] == said["msgId"])
    return float(answer["mono_s"] - pushed["mono_s"]) * 1000


def run(mode: str, messages: int) -> list[Figure]:
    """One mode on an installation of its own."""
    say(f"{mode}: starting")
    with (
        tempfile.TemporaryDirectory(prefix="switchyard-overhead-") as folder,
        running_sandbox() as sandbox,
        installation(Path(folder), sandbox, settings(mode)),
        SandboxClient(sandbox.url) as client,
    ):
        measure(client, WARM_UP, "warm")
        say(f"{mode}: {messages} messages, one at a time")
        return figures(mode, measure(client, messages, "person"))


def figures(mode: str, took_ms: Sequence[float]) -> list[Figure]:
    """The figures of one mode."""
    return [
        Figure(f"{mode}: frame to reply, p50", percentile(took_ms, 0.5), "ms", P50_REACH),
        Figure(f"{mode}: frame to reply, p99", percentile(took_ms, 0.99), "ms", P99_REACH),
    ]


def read_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = arguments_for(__doc__)
    parser.add_argument("--messages", type=int, default=200, help="messages in each mode")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES, help="how replies are shown")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    arguments = read_arguments(argv)
    show([one for mode in arguments.modes for one in run(mode, arguments.messages)], arguments)


if __name__ == "__main__":
    main()
