"""What a step of the engine `slots` takes with layers that torch compiled, beside the same step without.

`python -m benchmarks.steps` lets 1, 8 and 48 requests write with the demo model, with one thread. A step's seconds are
those of the CPU of this process. Both take turns step by step, on caches of their own; the median of the steps counts.
Linear layers whose weights are kept in MKL's order (float32) cannot be compiled, and are plain ones there.
"""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks.figures import Figure, arguments_for, median, say, show
from benchmarks.stepping import demo_model, stepping

if TYPE_CHECKING:
    from workers.engine.loading import Loaded

ROWS, STEPS, WARM_UP = (1, 8, 48), 60, 10


def main() -> None:
    arguments = read_arguments()
    show(measure(demo_model(arguments.dtype), arguments.steps), arguments)


def read_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = arguments_for(__doc__)
    parser.add_argument("--steps", type=int, default=STEPS, help="of each")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    return parser.parse_args(given)


def measure(loaded: "Loaded", steps: int) -> list[Figure]:
    """CPU milliseconds of a plain step, and the compiled one as a multiple of it."""
    from workers.engine.serving import serve

    say("torch compiles")
    models = {compiled: serve(loaded.model, compiled=compiled) for compiled in (False, True)}
    figures = []
    for rows in ROWS:
        both = {compiled: stepping(served, rows) for compiled, served in models.items()}
        for _ in range(1 + WARM_UP + steps):
            for one in both.values():
                one.step()
        plain_s, compiled_s = (median(both[compiled].took_s[WARM_UP:]) for compiled in (False, True))
        figures.append(Figure(f"{rows} requests: a step", 1000 * plain_s, "ms of CPU"))
        figures.append(Figure(f"{rows} requests: compiled", compiled_s / plain_s, "x"))
        say(f"{rows} requests: {compiled_s / plain_s:.2f}")
    return figures


if __name__ == "__main__":
    main()
