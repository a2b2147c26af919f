"""Tokens per CPU second of the engine `slots`, against one-by-one `generate()` and static batches, on the demo model.

`python -m benchmarks.engine` gives every contender the same requests: prompts of 30 to 200 tokens, answers of 16 to 128
tokens, greedy, float32, one thread, all there at once. CPU seconds are those of this whole process, so a busy machine
disturbs little. `--quick` takes about two minutes; its requests do not fill the slots, so its ratios are lower.
"""

import argparse
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.figures import Figure, Reach, arguments_for, median, say, show
from workers.engine.demo_model import prepare_demo_model
from workers.engine.interface import Request

if TYPE_CHECKING:
    from workers.engine.loading import Loaded

MODELS = Path(".switchyard") / "models"
SLOTS = 16
QUICK_REQUESTS = 12
GENERATE_REACH, STATIC_REACH = Reach(">=", 5), Reach(">=", 2)
PROMPT_TOKENS, ANSWER_TOKENS = (30, 200), (16, 128)

Tokens = list[int]


@dataclass(frozen=True, slots=True)
class Task:
    """One request: its prompt, and how many tokens its answer has."""

    prompt: Tokens
    new: int


Contender = Callable[["Loaded", Sequence[Task]], list[Tokens]]


def workload(count: int, vocabulary: int, seed: int = 0) -> list[Task]:
    """Mixed requests, the same for the same seed."""
    chance = random.Random(seed)
    return [
        Task(
            [chance.randrange(100, vocabulary) for _ in range(chance.randint(*PROMPT_TOKENS))],
            chance.randint(*ANSWER_TOKENS),
        )
        for _ in range(count)
    ]


def one_by_one(loaded: "Loaded", tasks: Sequence[Task]) -> list[Tokens]:
    """`generate()`, one request after another."""
    return [answer for task in tasks for answer in _generate(loaded.model, [task])]


def static_batches(loaded: "Loaded", tasks: Sequence[Task]) -> list[Tokens]:
    """`generate()`, 16 requests at a time in the order of arrival; a batch runs until its longest answer is done."""
    batches = [tasks[start : start + SLOTS] for start in range(0, len(tasks), SLOTS)]
    return [answer for batch in batches for answer in _generate(loaded.model, batch)]


def slots(loaded: "Loaded", tasks: Sequence[Task]) -> list[Tokens]:
    """Ours: a request joins when a slot is free and leaves when it is done."""
    from workers.engine.slots import SlotsEngine

    longest = max(len(task.prompt) + task.new for task in tasks)
    engine = SlotsEngine(loaded, slots=SLOTS, max_tokens=longest + 1, threads=1)
    try:
        running = [engine.start(task.prompt, Request(messages=(), max_new_tokens=task.new)) for task in tasks]
        for sequence in running:
            sequence.handle.result()
        return [sequence.new for sequence in running]
    finally:
        engine.close()


def _generate(model: Any, tasks: Sequence[Task]) -> list[Tokens]:
    """Left-padded, greedy, without an end token; each answer cut to what was asked for."""
    import torch

    width = max(len(task.prompt) for task in tasks)
    ids = torch.tensor([[0] * (width - len(task.prompt)) + task.prompt for task in tasks])
    mask = torch.tensor([[0] * (width - len(task.prompt)) + [1] * len(task.prompt) for task in tasks])
    longest = max(task.new for task in tasks)
    with torch.inference_mode():
        found = model.generate(ids, attention_mask=mask, max_new_tokens=longest, do_sample=False, pad_token_id=0)
    return [row[width : width + task.new] for row, task in zip(found.tolist(), tasks, strict=True)]


CONTENDERS: dict[str, Contender] = {"slots": slots, "static batches of 16": static_batches, "generate()": one_by_one}


@dataclass(frozen=True, slots=True)
class Measured:
    """What one contender did in one round."""

    answers: list[Tokens]
    tokens_per_cpu_s: float


def measure(loaded: "Loaded", tasks: Sequence[Task], rounds: int) -> list[Figure]:
    """Every contender once a round, in turns; the median counts. Raises ValueError if an answer has a wrong length."""
    found: dict[str, list[Measured]] = {name: [] for name in CONTENDERS}
    for number in range(rounds):
        for name, contender in CONTENDERS.items():
            found[name].append(_one(contender, loaded, tasks))
            say(f"round {number + 1}: {name}: {found[name][-1].tokens_per_cpu_s:.1f} tokens per CPU second")
    return figures(found)


def _one(contender: Contender, loaded: "Loaded", tasks: Sequence[Task]) -> Measured:
    started = time.process_time()
    answers = contender(loaded, tasks)
    took_s = time.process_time() - started
    if [len(answer) for answer in answers] != [task.new for task in tasks]:
        raise ValueError("an answer is shorter than it must be: the contenders did not do the same work")
    return Measured(answers, sum(task.new for task in tasks) / took_s)


def figures(found: dict[str, list[Measured]]) -> list[Figure]:
    """The rates, the ratios, and how many answers are those of `generate()` to the last token."""
    rates = {name: [one.tokens_per_cpu_s for one in rounds] for name, rounds in found.items()}
    ours, static, single = (rates[name] for name in CONTENDERS)
    pairs = zip(found["slots"][0].answers, found["generate()"][0].answers, strict=True)
    return [
        *(Figure(name, median(rate), "tokens/CPU s") for name, rate in rates.items()),
        Figure("slots / generate()", _ratio(ours, single), "x", GENERATE_REACH),
        Figure("slots / static batches", _ratio(ours, static), "x", STATIC_REACH),
        Figure("answers", len(found["slots"][0].answers)),
        Figure("answers equal to generate()'s", sum(left == right for left, right in pairs)),
    ]


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return median([mine / other for mine, other in zip(ours, theirs, strict=True)])


def load(folder: str) -> "Loaded":
    """A model in float32 on one thread, whose answers end by their length alone."""
    import torch

    from workers.engine.loading import load_model

    torch.set_num_threads(1)
    loaded = load_model(folder or str(prepare_demo_model(MODELS)), device="cpu", dtype="float32")
    loaded.model.generation_config.eos_token_id = None
    loaded.model.config.eos_token_id = None
    return replace(loaded, eos=frozenset())


def read_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = arguments_for(__doc__)
    parser.add_argument("--requests", type=int, default=48, help="how many requests")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contender")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_REQUESTS} requests, one round")
    parser.add_argument("--model", default="", help="a folder; empty: the demo model")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    arguments = read_arguments(argv)
    count, rounds = (QUICK_REQUESTS, 1) if arguments.quick else (arguments.requests, arguments.rounds)
    loaded = load(arguments.model)
    show(measure(loaded, workload(count, loaded.vocabulary), rounds), arguments)


if __name__ == "__main__":
    main()
