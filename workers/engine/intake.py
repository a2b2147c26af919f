"""The door of an engine that computes itself: requests are checked, made sequences, and wait for its thread.

It knows everybody who came in and has not left: what the engine's own thread does with them meanwhile, and whether that
thread still does anything, nobody needs to ask in order to tell them that it is over.
"""

import threading
from collections.abc import Callable

from app.errors import EngineStopped, EngineUnavailable, RequestRejected
from workers.engine.checks import check_messages, check_sampling
from workers.engine.fitting import fit_messages
from workers.engine.interface import Handle, Request
from workers.engine.loading import Loaded
from workers.engine.meter import Meter
from workers.engine.prompts import Messages
from workers.engine.sequence import Answer, Sequence


class Intake:
    """Every method is safe from any thread. After `stop` nothing comes in any more.

    `max_tokens`: of prompt and answer together. `check` refuses what this engine does not do; `new_handle` makes the
    handle of who brings none.
    """

    def __init__(
        self,
        loaded: Loaded,
        *,
        max_tokens: int,
        check: Callable[[Request], None],
        clock: Callable[[], float],
        new_handle: Callable[[], Handle] = Handle,
    ) -> None:
        self.max_tokens = max_tokens
        self.meter = Meter(clock)
        self._prompts, self._vocabulary = loaded.prompts, loaded.vocabulary
        self._check, self._clock, self._new_handle = check, clock, new_handle
        self._state = threading.Condition()  # guards all below
        self._arrived: list[Sequence] = []
        self._inside: dict[Sequence, None] = {}  # in the order of their coming
        self._stopped: str | None = None
        self._paused: str | None = None

    @property
    def stopped(self) -> str | None:
        """Why nothing comes in any more; None while the engine is open."""
        return self._stopped

    @property
    def waiting(self) -> int:
        """How many came that nobody has fetched yet."""
        return len(self._arrived)

    def encode(self, messages: Messages) -> list[int]:
        """The prompt's tokens. Raises RequestRejected if the model's template does not take them."""
        return self._prompts.encode(messages)

    def fit(self, messages: Messages, max_new_tokens: int) -> Messages:
        """See `Engine.fit`; an answer reserves at most half of `max_tokens`. Raises RequestRejected."""
        check_messages(messages)
        return fit_messages(
            messages, limit_tokens=self.max_tokens, max_new_tokens=max_new_tokens, measure=self._prompts.measure
        )

    def make(self, prompt: list[int], request: Request, handle: Handle | None) -> Sequence:
        """What a request is inside the engine; its messages are not looked at.

        Its answer is at most what the prompt leaves of `max_tokens`, with finish "length".

        Raises:
            RequestRejected: a value is out of range, or the prompt leaves no room for an answer.
        """
        check_sampling(request)
        self._check(request)
        if not prompt or len(prompt) >= self.max_tokens:
            raise RequestRejected(f"prompt: has {len(prompt)} tokens, there is room for 1 to {self.max_tokens - 1}")
        if min(prompt) < 0 or max(prompt) >= self._vocabulary:
            raise RequestRejected("prompt: a token is not in the model's vocabulary")
        return Sequence(
            request=request,
            handle=handle or self._new_handle(),
            prompt=prompt,
            max_new=min(request.max_new_tokens, self.max_tokens - len(prompt)),
            course=self.meter.begin(),
            ends_at_s=None if request.deadline_s is None else self._clock() + request.deadline_s,
            answer=Answer(self._prompts.decode, request.stop),
        )

    def enter(self, sequence: Sequence) -> None:
        """Let it in; whoever ends it says so by `leave`.

        Raises:
            EngineStopped: the engine died or was closed.
            EngineUnavailable: it lets nobody in for a while.
        """
        with self._state:
            if self._stopped is not None:
                raise EngineStopped(self._stopped)
            if self._paused is not None:
                raise EngineUnavailable(self._paused)
            self._arrived.append(sequence)
            self._inside[sequence] = None
            self._state.notify()

    def leave(self, sequence: Sequence) -> None:
        """It ends. Nothing happens if it has left before."""
        with self._state:
            self._inside.pop(sequence, None)

    def inside(self) -> list[Sequence]:
        """Those that came in and have not left, fetched or not, in order."""
        with self._state:
            return list(self._inside)

    def arrivals(self) -> list[Sequence]:
        """Those that came since the last call, in order."""
        with self._state:
            arrived, self._arrived = self._arrived, []
        return arrived

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until something came, or nothing comes any more; False: the time was over before."""
        with self._state:
            return bool(self._state.wait_for(lambda: self._arrived or self._stopped is not None, timeout_s))

    def stop(self, why: str) -> None:
        """Let nothing in any more. The first reason counts. Who has not been fetched is not given out any more."""
        with self._state:
            self._stopped = self._stopped or why
            self._arrived = []
            self._state.notify()

    def pause(self, why: str) -> None:
        """Let nobody in until `resume`. Who has not been fetched is not given out any more."""
        with self._state:
            self._paused, self._arrived = why, []

    def resume(self) -> None:
        with self._state:
            self._paused = None
