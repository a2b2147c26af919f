"""The engine `echo`: no model. It answers with the person's own text, at a set speed, and holds slots like a real one.

For load and failure tests: one thread and a heap of times serve any number of requests.
"""

import heapq
import itertools
import re
import threading
import time
from collections.abc import Callable

from app.errors import EngineStopped
from workers.engine.checks import check_messages, check_request
from workers.engine.figures import Figures
from workers.engine.fitting import Messages, fit_messages
from workers.engine.interface import Finish, Handle, Request, Result
from workers.engine.meter import Course, Meter
from workers.engine.text import StopStrings
from workers.engine.waiting import Waiting

FIT_TOKENS = 1_000_000
# A word with the blanks before it, one CJK character, or blanks at the end.
CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
TOKEN = re.compile(rf"\s*[{CJK}]|\s*[^\s{CJK}]+|\s+")


class EchoEngine:
    """Answers with the last user message, unchanged and whole: `max_new_tokens` does not cut it.

    At most `slots` requests run at once, each at `tokens_per_s`; 0: every answer is there at once.
    """

    def __init__(self, slots: int, tokens_per_s: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.slots = slots
        self._per_s = tokens_per_s
        self._clock = clock
        self._meter = Meter(clock)
        self._state = threading.Condition()  # guards all below
        self._waiting: Waiting[_Echo] = Waiting()
        self._running: set[_Echo] = set()
        self._times: list[tuple[float, int, _Echo]] = []  # a heap; entries of those that have ended are skipped
        self._order = itertools.count()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="echo", daemon=True)
        if tokens_per_s > 0:
            self._thread.start()

    def submit(self, request: Request) -> Handle:
        """Start a request. Raises RequestRejected, EngineStopped."""
        check_request(request)
        echo = _Echo(request, self._cancel, self._meter.begin())
        with self._state:
            if self._closed:
                raise EngineStopped("the engine was closed")
            if self._per_s > 0:
                self._join(echo)
                return echo.handle
        echo.speak(len(echo.tokens))
        return echo.handle

    def fit(self, messages: Messages, max_new_tokens: int) -> Messages:
        """See `Engine.fit`. A limit of a million tokens: nearly always unchanged."""
        check_messages(messages)
        return fit_messages(messages, limit_tokens=FIT_TOKENS, max_new_tokens=max_new_tokens, measure=_measure)

    def alive(self) -> bool:
        return not self._closed

    def figures(self) -> Figures:
        """See `Engine.figures`. It has no cache, and nothing to begin anew."""
        return self._meter.figures(slots=self.slots, running=len(self._running), waiting=len(self._waiting))

    def close(self) -> None:
        """End every request with EngineStopped."""
        with self._state:
            self._closed = True
            left = [*self._running, *self._waiting]
            self._running.clear()
            self._waiting = Waiting()
            self._state.notify()
        for echo in left:
            echo.fail(EngineStopped("the engine was closed"))
        if self._thread.is_alive():
            self._thread.join()

    def _join(self, echo: "_Echo") -> None:
        """Wait for a slot; look at the deadline even while waiting."""
        self._waiting.add(echo, priority=echo.request.priority, now_s=self._clock())
        if echo.ends_at_s is not None:
            self._look_again(echo, echo.ends_at_s)
        self._fill_slots()
        self._state.notify()

    def _cancel(self, echo: "_Echo") -> None:
        """Called in the thread of whoever cancels."""
        with self._state:
            if not echo.ended and not self._closed:
                self._leave(echo, "cancelled")
                self._state.notify()

    def _run(self) -> None:
        with self._state:
            while not self._closed:
                now_s = self._clock()
                while self._times and self._times[0][0] <= now_s:
                    self._tick(heapq.heappop(self._times)[2], now_s)
                self._state.wait(max(0.0, self._times[0][0] - self._clock()) if self._times else None)

    def _tick(self, echo: "_Echo", now_s: float) -> None:
        """What is due for one request: tokens, its end, or nothing because it has ended."""
        if echo.ended:
            return
        if echo in self._running:
            echo.speak(int((now_s - echo.started_s) * self._per_s + 1e-6))
            if echo.ended:
                self._leave(echo, None)
                return
        if echo.ends_at_s is not None and now_s >= echo.ends_at_s:
            self._leave(echo, "deadline")
        elif echo in self._running:
            self._look_again(echo, echo.started_s + (echo.spoken + 1) / self._per_s)

    def _leave(self, echo: "_Echo", reason: Finish | None) -> None:
        """Free its place. With a reason, end it by that; without, it has ended by itself."""
        if reason is not None:
            echo.finish(reason)
        self._running.discard(echo)
        self._waiting.discard(echo)
        self._fill_slots()

    def _fill_slots(self) -> None:
        while self._waiting and len(self._running) < self.slots:
            echo = self._waiting.pop()
            echo.started_s = self._clock()
            echo.handle.begin()
            self._running.add(echo)
            self._look_again(echo, echo.started_s + 1 / self._per_s)

    def _look_again(self, echo: "_Echo", at_s: float) -> None:
        heapq.heappush(self._times, (at_s, next(self._order), echo))


class _Echo:
    """One request: its tokens and how many of them are out."""

    def __init__(self, request: Request, cancel: Callable[["_Echo"], None], course: Course) -> None:
        self.request = request
        self.handle = _CancelNow(lambda: cancel(self))
        self.tokens = split(_question(request.messages))
        self.course = course
        self.ends_at_s = None if request.deadline_s is None else course.asked_s + request.deadline_s
        self.started_s = course.asked_s
        self.spoken = 0
        self.ended = False
        self._prompt_tokens = _measure(request.messages)
        self._stops = StopStrings(request.stop)
        self._text: list[str] = []

    def speak(self, tokens: int) -> None:
        """Hand out the answer up to so many tokens, as one piece; ends after the last one."""
        said, self.spoken = self.spoken, min(max(tokens, self.spoken), len(self.tokens))
        if self.spoken > said:
            self.course.prompt(0 if said else self._prompt_tokens)
            self.course.token(self.spoken - said)
        self._emit(self._stops.add("".join(self.tokens[said : self.spoken])))
        if self._stops.stopped or self.spoken == len(self.tokens):
            self._emit(self._stops.flush())
            self.finish("stop")

    def finish(self, reason: Finish) -> None:
        self.ended = True
        self.course.end(reason)
        self.handle.finish(
            Result(
                text="".join(self._text),
                finish=reason,
                prompt_tokens=self._prompt_tokens,
                new_tokens=self.spoken,
            )
        )

    def fail(self, error: EngineStopped) -> None:
        self.ended = True
        self.course.end("failed")
        self.handle.fail(error)

    def _emit(self, piece: str) -> None:
        if piece:
            self._text.append(piece)
            self.handle.emit(piece)


class _CancelNow(Handle):
    """A handle whose cancel takes effect at once: no thread goes round and asks."""

    def __init__(self, cancel: Callable[[], None]) -> None:
        super().__init__()
        self._cancel_now = cancel

    def cancel(self) -> None:
        super().cancel()
        self._cancel_now()


def split(text: str) -> list[str]:
    """Tokens whose concatenation is the text."""
    return TOKEN.findall(text)


def _measure(messages: Messages) -> int:
    return sum(len(split(text)) for _, text in messages)


def _question(messages: Messages) -> str:
    return next((text for role, text in reversed(messages) if role == "user"), "")
