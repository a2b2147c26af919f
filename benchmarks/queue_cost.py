"""What mailbox, Celery and sender cost beside the model: the same questions to the engine alone and through the house.

`python -m benchmarks.queue_cost` asks everything at once, twice: by `submit` in this process, then as messages of
people to a whole installation with the same engine and settings. Seconds are those of the CPU; the second run counts
those of every process of the house, by role, also of those that only wait meanwhile.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from benchmarks.figures import Figure, Reach, arguments_for, say, show
from prove.installation import Installation, installation
from sandbox.client import SandboxClient
from sandbox.journal import ANSWERS
from sandbox.process import running_sandbox
from workers.engine.build import build_engine
from workers.engine.demo_model import prepare_demo_model
from workers.engine.interface import Request

MODELS = Path(".switchyard") / "models"
SYSTEM = "You are a helpful assistant."
QUESTIONS, ANSWER_TOKENS, SLOTS, MAX_TOKENS = 48, 72, 16, 1024
MODES = ("markdown", "card", "stream")
SHARE_REACH = Reach(">=", 0.97)  # of the engine's own rate that is left when people ask through the house
LIMIT_S, POLL_S = 900.0, 0.2
TICKS_S = os.sysconf("SC_CLK_TCK")


def question(number: int) -> str:
    """Each is another one, so that nobody's prompt is another's."""
    return f"Question {number}: please tell me in a few sentences how the trains of line {number} run today."


def settings(mode: str) -> dict[str, str]:
    """The installation whose text worker has the same engine."""
    return {
        "SWITCHYARD_ENGINE": "slots",
        "SWITCHYARD_SLOTS": str(SLOTS),
        "SWITCHYARD_MAX_TOKENS": str(MAX_TOKENS),
        "SWITCHYARD_ANSWER_TOKENS": str(ANSWER_TOKENS),
        "SWITCHYARD_SYSTEM_PROMPT": SYSTEM,
        "SWITCHYARD_MODEL_CACHE_DIR": str(MODELS.absolute()),
        "SWITCHYARD_REPLY_MODE": mode,
        "SWITCHYARD_CARD_CALLS_PER_S": "100000",
        "SWITCHYARD_LOG_LEVEL": "warning",
        "SWITCHYARD_DISK_FREE_PERCENT": "0",
    }


def alone(questions: Sequence[str]) -> float:
    """Tokens a CPU second of the engine by itself."""
    engine = build_engine(
        kind="slots", model="", slots=SLOTS, max_tokens=MAX_TOKENS, echo_tokens_per_s=0, cache_dir=MODELS
    )
    with closing(engine):
        requests = [
            Request(messages=(("system", SYSTEM), ("user", text)), max_new_tokens=ANSWER_TOKENS) for text in questions
        ]
        engine.submit(requests[0]).result()
        begun_s = time.process_time()
        handles = [engine.submit(request) for request in requests]
        answers = [handle.result().text for handle in handles]
        took_s = time.process_time() - begun_s
    return count_tokens(answers) / took_s


def through_the_house(questions: Sequence[str], mode: str) -> tuple[int, dict[str, float]]:
    """The tokens of all answers, and the CPU seconds of each role meanwhile. Raises TimeoutError."""
    with (
        tempfile.TemporaryDirectory(prefix="switchyard-cost-") as folder,
        running_sandbox() as sandbox,
        installation(Path(folder), sandbox, settings(mode)) as house,
        SandboxClient(sandbox.url) as client,
    ):
        ask(client, [question(-1)])
        before_s = cpu_s(house)
        say(f"{mode}: {len(questions)} people ask")
        answers = ask(client, questions)
        spent_s = {role: used - before_s[role] for role, used in cpu_s(house).items()}
    return count_tokens(answers), spent_s


def ask(client: SandboxClient, questions: Sequence[str]) -> list[str]:
    """Everybody asks at once, each in a conversation of their own; the answers. Raises TimeoutError."""
    since = client.last()
    client.send_many(
        [
            {"text": text, "conversation": f"cid-{number}-{since}=", "sender": f"p{number}", "staff": f"p{number}"}
            for number, text in enumerate(questions)
        ]
    )
    ends_at = time.monotonic() + LIMIT_S
    while len(answers := [event["text"] for event in client.log(since, *ANSWERS)]) < len(questions):
        if time.monotonic() > ends_at:
            raise TimeoutError(f"{len(answers)} of {len(questions)} were answered within {LIMIT_S:.0f} s")
        time.sleep(POLL_S)
    return answers


def cpu_s(house: Installation) -> dict[str, float]:
    """CPU seconds of every process of the house since it began, by role."""
    found = {"supervisor": _cpu_of(house.process.pid)}
    for process in house.processes():
        found[process["role"]] = found.get(process["role"], 0.0) + _cpu_of(process["pid"])
    return found


def _cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_S


def count_tokens(answers: Sequence[str]) -> int:
    """How many tokens the texts have, as the model's tokenizer writes them."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(prepare_demo_model(MODELS)))
    return sum(len(tokenizer(answer)["input_ids"]) for answer in answers)


def figures(mode: str, per_s: float, tokens: int, spent_s: dict[str, float], answers: int) -> list[Figure]:
    """The two rates, their ratio, and what each role spent on an answer."""
    model_s, all_s = spent_s["text"], sum(spent_s.values())
    rates = [
        Figure("engine alone", per_s, "tokens/CPU s"),
        Figure(f"{mode}: text worker", tokens / model_s, "tokens/CPU s"),
        Figure(f"{mode}: whole house", tokens / all_s, "tokens/CPU s"),
        Figure(f"{mode}: whole house / engine alone", tokens / all_s / per_s, "x", SHARE_REACH),
    ]
    each = [Figure(f"{mode}: {role}, an answer", 1000 * used / answers, "ms CPU") for role, used in spent_s.items()]
    return rates + each


def read_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = arguments_for(__doc__)
    parser.add_argument("--questions", type=int, default=QUESTIONS, help="how many people ask one question each")
    parser.add_argument("--mode", choices=MODES, default="card", help="how replies are shown")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    arguments = read_arguments(argv)
    questions = [question(number) for number in range(arguments.questions)]
    say("the engine alone")
    per_s = alone(questions)
    tokens, spent_s = through_the_house(questions, arguments.mode)
    show(figures(arguments.mode, per_s, tokens, spent_s, len(questions)), arguments)


if __name__ == "__main__":
    main()
