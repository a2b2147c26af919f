"""Counts what an engine does, and how long people wait for it. A token costs a microsecond at most.

A request has a course: its engine says there when a token came and how it ended, and everything else follows.
"""

import threading
import time
from bisect import bisect_left
from collections.abc import Callable
from typing import Final

from workers.engine.figures import ENDS, End, Figures, Spread

# Seconds. A first token comes within a prefill, or after somebody else's answer.
FIRST_TOKEN_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
# One step of a model: a few milliseconds on a GPU, up to seconds on a busy core.
OUTPUT_TOKEN_S: Final = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)


class Histogram:
    """Times by how long they are; see `Spread`. For one thread at a time."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum_s = 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum_s += seconds

    def spread(self) -> Spread:
        return Spread(bounds=self._bounds, counts=tuple(self._counts), sum_s=self._sum_s)


class Meter:
    """The counters of one engine. Every method is safe from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # guards all below
        self._prompt_tokens = self._generated_tokens = 0
        self._ended: dict[End, int] = dict.fromkeys(ENDS, 0)
        self._first_token, self._output_token = Histogram(FIRST_TOKEN_S), Histogram(OUTPUT_TOKEN_S)

    def begin(self) -> "Course":
        """A request came in."""
        return Course(self, self._clock())

    def prompt(self, tokens: int) -> None:
        """So many tokens of prompts went into the model."""
        with self._lock:
            self._prompt_tokens += tokens

    def figures(self, *, slots: int, running: int, waiting: int) -> Figures:
        """A reading, with what the engine alone can tell. Of what only some engines know nothing is in it."""
        with self._lock:
            return Figures(
                slots=slots,
                running=running,
                waiting=waiting,
                prompt_tokens=self._prompt_tokens,
                generated_tokens=self._generated_tokens,
                ended=dict(self._ended),
                first_token_s=self._first_token.spread(),
                output_token_s=self._output_token.spread(),
            )

    def token(self, course: "Course", tokens: int) -> None:
        """See `Course.token`."""
        now_s = self._clock()
        with self._lock:
            if course.ended:
                return
            self._generated_tokens += tokens
            if not course.tokens:
                course.first_s = now_s
                self._first_token.add(now_s - course.asked_s)
            course.last_s = now_s
            course.tokens += tokens

    def end(self, course: "Course", how: End, tokens: int) -> bool:
        """See `Course.end`."""
        with self._lock:
            if course.ended:
                return False
            course.ended = True
            self._ended[how] += 1
            self._generated_tokens += max(0, tokens - course.tokens)
            course.tokens = max(tokens, course.tokens)
            if course.tokens > 1:
                self._output_token.add((course.last_s - course.first_s) / (course.tokens - 1))
            return True


class Course:
    """One request between the door and its end, for its meter; its fields are the meter's.

    It ends once: what is said after that is not heard.
    """

    __slots__ = ("_meter", "asked_s", "ended", "first_s", "last_s", "tokens")

    def __init__(self, meter: Meter, asked_s: float) -> None:
        self._meter = meter
        self.asked_s = self.first_s = self.last_s = asked_s
        self.tokens = 0
        self.ended = False

    def prompt(self, tokens: int) -> None:
        """So many tokens of its prompt went in."""
        self._meter.prompt(tokens)

    def token(self, tokens: int = 1) -> None:
        """So many tokens came out, together."""
        self._meter.token(self, tokens)

    def end(self, how: End, tokens: int = 0) -> bool:
        """It ended. `tokens`: of the whole answer, if only its end tells how many these were.

        False: it ended before, perhaps by another thread, and its reader is told by who was first.
        """
        return self._meter.end(self, how, tokens)
