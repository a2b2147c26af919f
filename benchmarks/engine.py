"""Tokens per CPU second of the engine `slots` and of what could be used instead, on the demo model.

`python -m benchmarks.engine` gives every contender the same requests: prompts of 30 to 200 tokens, answers of 16 to 128
tokens, greedy, in `--dtype`, one thread on one core; first all at once, then at random at 0.7 times the rate that
transformers' continuous batching can do. Seconds are those of the CPU of this whole process, and for latencies also the
idle time between requests; the wall's are beside them. Contenders take turns; the median of the rounds counts.
`--quick` takes about five minutes; its requests do not fill the slots, so its ratios are lower.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.contenders import Contender, contenders
from benchmarks.figures import Figure, Reach, arguments_for, median, percentile, say, show
from benchmarks.requests import Noted, Task, burst, poisson
from workers.engine.demo_model import prepare_demo_model

if TYPE_CHECKING:
    from workers.engine.loading import Loaded

MODELS = Path(".switchyard") / "models"
SLOTS, REQUESTS, ARRIVING, ROUNDS = 48, 48, 32, 3
QUICK = (12, 8, 1)  # requests, arriving, rounds
LOAD = 0.7  # of the capacity of transformers' continuous batching
OURS, PEER, COLLECTOR = "slots", "transformers' batching", "collect"
REACH = {"generate()": Reach(">=", 5), "static 16": Reach(">=", 2), PEER: Reach(">=", 1.8)}
P50_REACH, FIRST_REACH = Reach("<", 0.4), Reach("<", 0.05)


@dataclass(frozen=True, slots=True)
class Measured:
    """What one contender did in one round."""

    noted: list[Noted]
    cpu_s: float
    wall_s: float

    @property
    def tokens_per_cpu_s(self) -> float:
        return sum(len(one.answer) for one in self.noted) / self.cpu_s

    @property
    def requests_per_cpu_s(self) -> float:
        return len(self.noted) / self.cpu_s

    def p50_s(self) -> float:
        return percentile([one.end_s for one in self.noted], 0.5)

    def first_s(self) -> float:
        return sum(one.first_s for one in self.noted) / len(self.noted)


Rounds = dict[str, list[Measured]]


def measure(loaded: "Loaded", tasks: Sequence[Task], rounds: int, chosen: dict[str, Contender]) -> Rounds:
    """Every contender once a round, in turns. Raises ValueError if an answer has a wrong length."""
    found: Rounds = {name: [] for name in chosen}
    for number in range(rounds):
        for name, contender in chosen.items():
            one = run_once(contender, loaded, tasks)
            found[name].append(one)
            rate = f"{one.tokens_per_cpu_s:.1f} tokens per CPU second, {one.cpu_s:.1f} s CPU, {one.wall_s:.1f} s wall"
            say(f"round {number + 1}: {name}: {rate}, p50 {one.p50_s():.2f} s, mean first {one.first_s():.2f} s")
    return found


def run_once(contender: Contender, loaded: "Loaded", tasks: Sequence[Task]) -> Measured:
    """One contender on all tasks."""
    begun, begun_wall = time.process_time(), time.perf_counter()
    noted = contender(loaded, tasks)
    cpu_s, wall_s = time.process_time() - begun, time.perf_counter() - begun_wall
    if [len(one.answer) for one in noted] != [task.new for task in tasks]:
        raise ValueError("an answer is shorter than it must be: the contenders did not do the same work")
    return Measured(noted, cpu_s, wall_s)


def throughput(found: Rounds) -> list[Figure]:
    """The rates, our ratios, and how many of our answers are those of `generate()` to the last token."""
    rates = {name: [one.tokens_per_cpu_s for one in rounds] for name, rounds in found.items()}
    figures = [Figure(name, median(rate), "tokens/CPU s") for name, rate in rates.items()]
    figures += [Figure(f"{name}, wall", median([one.wall_s for one in found[name]]), "s") for name in found]
    for name in [name for name in rates if name != OURS] if OURS in rates else ():
        figures.append(Figure(f"{OURS} / {name}", _ratio(rates[OURS], rates[name]), "x", REACH.get(name)))
    if {OURS, "generate()"} <= found.keys():
        pairs = zip(found[OURS][0].noted, found["generate()"][0].noted, strict=True)
        equal = [ours.answer == theirs.answer for ours, theirs in pairs]
        figures += [Figure("answers", len(equal)), Figure("answers equal to generate()'s", sum(equal))]
    return figures


def latency(found: Rounds, per_s: float) -> list[Figure]:
    """Medians of the rounds, and our ratios to collecting batches."""
    figures = [Figure("arrivals", per_s, "requests/s")]
    for name, rounds in found.items():
        figures.append(Figure(f"{name}: latency, p50", median([one.p50_s() for one in rounds]), "s"))
        figures.append(Figure(f"{name}: first token, mean", median([one.first_s() for one in rounds]), "s"))
    ours, theirs = found[OURS], found[COLLECTOR]
    p50 = _ratio([one.p50_s() for one in ours], [one.p50_s() for one in theirs])
    first = _ratio([one.first_s() for one in ours], [one.first_s() for one in theirs])
    return [
        *figures,
        Figure(f"{OURS} / {COLLECTOR}: latency, p50", p50, "x", P50_REACH),
        Figure(f"{OURS} / {COLLECTOR}: first token, mean", first, "x", FIRST_REACH),
    ]


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return median([mine / other for mine, other in zip(ours, theirs, strict=True)])


def load(folder: str, dtype: str) -> "Loaded":
    """A model on one thread of a CPU, whose answers end by their length alone."""
    import torch

    from workers.engine.loading import load_model

    torch.set_num_threads(1)
    loaded = load_model(folder or str(prepare_demo_model(MODELS)), device="cpu", dtype=dtype)
    loaded.model.generation_config.eos_token_id = None
    loaded.model.config.eos_token_id = None
    return replace(loaded, eos=frozenset())


def read_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = arguments_for(__doc__)
    parser.add_argument("--cores", default="", help="run on these cores alone, such as 0 or 0,1; empty: as started")
    parser.add_argument("--slots", type=int, default=SLOTS, help="slots of ours")
    parser.add_argument("--requests", type=int, default=REQUESTS, help="how many requests at once")
    parser.add_argument("--arriving", type=int, default=ARRIVING, help="how many of them at random; 0: leave that out")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="runs of each contender")
    parser.add_argument("--only", default="", help="contenders by name, with commas between them; empty: all")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK[0]} requests, one round")
    parser.add_argument("--dtype", default="float32", help="the numbers that all compute in, such as bfloat16")
    parser.add_argument("--model", default="", help="a folder; empty: the demo model")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print; with --json the last line is one object, each figure by its name."""
    arguments = read_arguments(argv)
    if arguments.cores:
        os.sched_setaffinity(0, {int(core) for core in arguments.cores.split(",")})
    count, arriving, rounds = QUICK if arguments.quick else (arguments.requests, arguments.arriving, arguments.rounds)
    everyone = contenders(arguments.slots)
    chosen = {name: everyone[name] for name in arguments.only.split(",") if name} or everyone
    loaded = load(arguments.model, arguments.dtype)
    tasks = burst(count, loaded.vocabulary)
    found = measure(loaded, tasks, rounds, chosen)
    figures = throughput(found)
    if arriving and PEER in found:
        per_s = LOAD * median([one.requests_per_cpu_s for one in found[PEER]])
        competing = {name: everyone[name] for name in (OURS, PEER, COLLECTOR)}
        figures += latency(measure(loaded, poisson(tasks[:arriving], per_s), rounds, competing), per_s)
    if arguments.json:
        print(json.dumps({one.name: one.value for one in figures}))
    else:
        show(figures, arguments)


if __name__ == "__main__":
    main()
