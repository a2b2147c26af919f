"""The engine's interface: submit a request, read its text, cancel it. It always ends, also when the engine dies."""

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from app.errors import EngineStopped, SwitchyardError
from workers.engine.figures import Figures

Finish = Literal["stop", "length", "cancelled", "deadline"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked of the engine. `messages` are (role, text), oldest first; roles: system, user, assistant."""

    messages: tuple[tuple[str, str], ...]
    max_new_tokens: int
    temperature: float = 0.0  # 0: greedy; else 0.001 to 1000
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    repetition_penalty: float = 1.0  # above 1: what is in the prompt or the answer comes less; `slots` only
    min_new_tokens: int = 0  # no end token before so many, though a stop string may end it; `slots` only
    processors: tuple[str, ...] = ()  # names of logit processors (see processors.py); `slots` only
    stop: tuple[str, ...] = ()
    seed: int | None = None
    adapter: str | None = None  # the name of a LoRA adapter; `slots` and `openai` alone
    deadline_s: float | None = None  # from submit; what is there by then is the result
    priority: int = 0  # higher goes first; -1000 to 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a request ended, with all of its text."""

    text: str
    finish: Finish
    prompt_tokens: int
    new_tokens: int


class Handle:
    """One running request, seen by the one thread that waits for it. `begin`, `emit`, `finish`, `fail` are
    the engine's side.

    The first end counts, also when two threads of the engine end it: what comes after that is not read.
    """

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[str | Result | SwitchyardError] = queue.SimpleQueue()
        self._end: Result | SwitchyardError | None = None
        self._cancelled = threading.Event()
        self._begun = False

    def __iter__(self) -> Iterator[str]:
        """Pieces of the text as they come, whole characters only; ends when the request ends, raises its error."""
        while (piece := self.next_piece(None)) is not None:
            yield piece

    def next_piece(self, timeout_s: float | None) -> str | None:
        """The next piece of text, empty for a mere sign of life; None at the end.

        Raises the request's error, or TimeoutError.
        """
        if self._end is None:
            try:
                event = self._events.get(timeout=timeout_s)
            except queue.Empty:
                raise TimeoutError("no token in time") from None
            if isinstance(event, str):
                return event
            self._end = event
        if isinstance(self._end, SwitchyardError):
            raise self._end
        return None

    def result(self) -> Result:
        """Wait for the end. Raises the request's error."""
        for _ in self:
            pass
        if not isinstance(self._end, Result):
            raise EngineStopped("the request ended without a result")
        return self._end

    def cancel(self) -> None:
        """Ask the engine to stop; the result then is the text so far. Safe from any thread, any number of times."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    @property
    def begun(self) -> bool:
        """Whether the engine works on it; until then it waits for a slot."""
        return self._begun

    def begin(self) -> None:
        self._begun = True

    def emit(self, piece: str) -> None:
        self._begun = True
        self._events.put(piece)

    def finish(self, result: Result) -> None:
        self._events.put(result)

    def fail(self, error: SwitchyardError) -> None:
        self._events.put(error)


class Engine(Protocol):
    """Answers many requests at once. Every method is safe from any thread."""

    slots: int

    def submit(self, request: Request) -> Handle:
        """Start a request.

        Raises:
            RequestRejected: it can never run.
            EngineStopped: the engine is down.
            EngineUnavailable: not now; nothing of it was begun.
        """
        ...

    def fit(self, messages: tuple[tuple[str, str], ...], max_new_tokens: int) -> tuple[tuple[str, str], ...]:
        """Drop the oldest messages (never a leading system message, never the last) until the answer fits too.

        If the last message alone is too long, its middle is cut out.
        """
        ...

    def alive(self) -> bool: ...

    def figures(self) -> Figures:
        """What it counts, now; also when it is not alive any more."""
        ...

    def close(self) -> None:
        """End every request with EngineStopped, at once, and free the model when what is computed now has ended."""
        ...
