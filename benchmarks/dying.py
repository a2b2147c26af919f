"""How long people wait to hear that an engine died: it dies while many ask, and goes on dying when it begins anew.

`python -m benchmarks.dying` has eight threads ask without a pause; then every step of the model fails, until the engine
gives up. A request's wait is from its submission, or from the first failure if that came later, to its error.
"""

import argparse
import logging
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.errors import SwitchyardError
from benchmarks.figures import Figure, Reach, arguments_for, say, show
from workers.engine.demo_model import prepare_demo_model
from workers.engine.interface import Engine, Request

if TYPE_CHECKING:
    from workers.engine.loading import Loaded

MODELS = Path(".switchyard") / "models"
PEOPLE, SLOTS, MAX_TOKENS, ANSWER_TOKENS, DEATHS = 8, 4, 256, 16, 5
QUESTION = Request(messages=(("user", "Where do I find my train?"),), max_new_tokens=ANSWER_TOKENS)
TOLD = Reach("<", 1.0)


class Failing:
    """A model, every step of which fails as soon as it is told to."""

    def __init__(self, model: Any) -> None:
        self.first_s: float | None = None  # when a step failed first
        self._told = False
        self._hook = model.base_model.register_forward_pre_hook(self._fail)

    def begin(self) -> None:
        self._told = True

    def end(self) -> None:
        self._hook.remove()

    def _fail(self, *_: Any) -> None:
        if self._told:
            self.first_s = self.first_s or time.monotonic()
            raise RuntimeError("the device is gone")


class Person(threading.Thread):
    """Asks until nothing is taken any more; remembers when each request that got an error was submitted and ended."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(daemon=True)
        self.failed: list[tuple[float, float]] = []
        self.answered = 0
        self._engine = engine

    def run(self) -> None:
        while True:
            submitted_s = time.monotonic()
            try:
                handle = self._engine.submit(QUESTION)
            except SwitchyardError:
                self.failed.append((submitted_s, time.monotonic()))
                return
            try:
                handle.result()
                self.answered += 1
            except SwitchyardError:
                self.failed.append((submitted_s, time.monotonic()))


def main() -> None:
    arguments = read_arguments()
    logging.getLogger("workers").setLevel(logging.CRITICAL + 1)  # it would tell of each death
    loaded = demo_model()
    show([figure for kind in ENGINES for figure in measure(kind, loaded, arguments.deaths)], arguments)


def read_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = arguments_for(__doc__)
    parser.add_argument("--deaths", type=int, default=DEATHS, help="of each engine")
    return parser.parse_args(given)


def demo_model() -> "Loaded":
    import torch

    from workers.engine.loading import load_model

    torch.set_num_threads(1)
    return load_model(str(prepare_demo_model(MODELS)), device="cpu", dtype="float32")


def measure(kind: str, loaded: "Loaded", deaths: int) -> list[Figure]:
    """The worst wait of all, and how many got an error."""
    waits: list[float] = []
    for number in range(deaths):
        waits += died(*ENGINES[kind](loaded))
        say(f"{kind}: death {number + 1} of {deaths}")
    return [
        Figure(f"{kind}: requests that got an error", len(waits)),
        Figure(f"{kind}: worst wait for it", max(waits), "s", TOLD),
    ]


def died(engine: Engine, failing: Failing) -> list[float]:
    """Seconds that each request waited for its error."""
    people = [Person(engine) for _ in range(PEOPLE)]
    with closing(engine):
        for person in people:
            person.start()
        while not any(person.answered for person in people):
            time.sleep(0.01)
        failing.begin()
        for person in people:
            person.join(60)
    failing.end()
    if any(person.is_alive() for person in people) or failing.first_s is None:
        raise SystemExit("somebody was never told")
    return [ended - max(submitted, failing.first_s) for person in people for submitted, ended in person.failed]


def _slots(loaded: "Loaded") -> tuple[Engine, Failing]:
    from workers.engine.serving import serve
    from workers.engine.slots import SlotsEngine

    return SlotsEngine(loaded, slots=SLOTS, max_tokens=MAX_TOKENS), Failing(serve(loaded.model))


def _paged(loaded: "Loaded") -> tuple[Engine, Failing]:
    from workers.engine.paged import PagedEngine

    engine = PagedEngine(loaded, slots=SLOTS, max_tokens=MAX_TOKENS, graphs=False)  # a graph runs past the hook
    return engine, Failing(loaded.model)


ENGINES = {"slots": _slots, "paged": _paged}


if __name__ == "__main__":
    main()
