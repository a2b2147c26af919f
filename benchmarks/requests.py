"""What the contenders of `benchmarks.engine` are given, the clock they run on, and what is noted of each request."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

PROMPT_TOKENS, ANSWER_TOKENS = (30, 200), (16, 128)

Tokens = list[int]


@dataclass(frozen=True, slots=True)
class Task:
    """One request: its prompt, how many tokens its answer has, and when it comes, in seconds of the run's clock."""

    prompt: Tokens
    new: int
    at_s: float = 0.0


class Clock:
    """Seconds of CPU that this process used since the clock was made, and the idle time that was skipped.

    So a busy machine disturbs little: a process that waits for a core does not age.
    """

    def __init__(self) -> None:
        self._begun_s, self._skipped_s = time.process_time(), 0.0

    def now(self) -> float:
        return time.process_time() - self._begun_s + self._skipped_s

    def skip_to(self, at_s: float) -> None:
        """Nothing is to be done until then; nothing happens if that moment is over."""
        self._skipped_s += max(0.0, at_s - self.now())


@dataclass(slots=True)
class Noted:
    """What became of one request; times in seconds after it came."""

    answer: Tokens = field(default_factory=list)
    first_s: float = 0.0  # to the first token that the model made, whether or not anybody could see it
    end_s: float = 0.0


def burst(count: int, vocabulary: int, seed: int = 0) -> list[Task]:
    """Mixed requests that are all there at once; the same for the same seed."""
    chance = random.Random(seed)
    return [
        Task(
            [chance.randrange(100, vocabulary) for _ in range(chance.randint(*PROMPT_TOKENS))],
            chance.randint(*ANSWER_TOKENS),
        )
        for _ in range(count)
    ]


def poisson(tasks: Sequence[Task], per_s: float, seed: int = 0) -> list[Task]:
    """The same requests, arriving at random at so many a second."""
    chance, at_s = random.Random(seed), 0.0
    arriving = []
    for task in tasks:
        at_s += chance.expovariate(per_s)
        arriving.append(Task(task.prompt, task.new, at_s))
    return arriving
