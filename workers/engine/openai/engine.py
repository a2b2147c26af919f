"""The engine `openai`: a client of servers that speak the OpenAI API, such as vLLM and SGLang. It holds no model.

One thread runs an event loop; each request that runs is a task in it and has a connection of its own. At most `slots`
run, the others wait here, where priority and ageing decide. To cancel a request is to close its connection, by which
such servers know that nobody wants the rest.
"""

import asyncio
import functools
import logging
import threading
import time
import traceback
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any, Final, TypeVar

from app.errors import EngineStopped, SwitchyardError
from workers.engine.checks import check_messages, check_plain, check_sampling
from workers.engine.figures import Figures
from workers.engine.fitting import Messages
from workers.engine.interface import Finish, Handle, Request
from workers.engine.meter import Meter
from workers.engine.openai.answer import Answer
from workers.engine.openai.client import Client, Limits
from workers.engine.openai.context import Context
from workers.engine.openai.looking import LOOK_AROUND_S, look_around
from workers.engine.openai.relay import Relay
from workers.engine.openai.servers import Servers
from workers.engine.waiting import Waiting

log = logging.getLogger(__name__)

Outcome = TypeVar("Outcome")

_CLOSE_S: Final = 10.0


class OpenAIEngine:
    """Answers by servers that hold the model. `max_tokens`: of prompt and answer; a server may have a lower limit."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        model: str,
        slots: int,
        max_tokens: int,
        api_key: str = "",
        ca_file: Path | None = None,
        limits: Limits | None = None,
    ) -> None:
        """`urls`: such as http://host:8000/v1. Raises BadSetting if the file of certificates cannot be read."""
        self.slots = slots
        limits = limits or Limits()
        self._client = Client(model=model, slots=slots, api_key=api_key, ca_file=ca_file, limits=limits)
        self._servers = Servers(urls)
        self._context = Context(self._client, self._servers, max_tokens=max_tokens)
        self._relay = Relay(self._client, self._servers, self._context)
        self._meter = Meter()
        self._waiting: Waiting[Answer] = Waiting()  # this and the next two: in the loop's thread alone
        self._running: dict[Answer, asyncio.Task[None]] = {}
        self._timers: dict[Answer, asyncio.TimerHandle] = {}
        self._state = threading.Lock()  # guards the next one
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="openai", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> Handle:
        """Start a request; an adapter is the name of a model at the servers.

        The handle's errors: RequestRejected, EngineStopped, EngineUnavailable (no server takes it now, or a setting is
        wrong; nothing was begun).

        Raises:
            RequestRejected: a value is out of range.
            EngineStopped: the engine was closed.
        """
        check_messages(request.messages)
        check_sampling(request)
        check_plain(request, adapters=True)
        handle = _CancelNow()
        answer = Answer(request, handle, self._meter.begin())
        handle.on_cancel = lambda: self._tell(self._end, answer, "cancelled")
        if not self._tell(self._enter, answer):
            raise EngineStopped("the engine was closed")
        return handle

    def fit(self, messages: Messages, max_new_tokens: int) -> Messages:
        """See `Engine.fit`. By the server's own count where it has /tokenize, else by an estimate. RequestRejected."""
        check_messages(messages)
        return self._context.fit(messages, max_new_tokens, ask=self._ask)

    def look_around(self) -> None:
        """Ask every server for its models, and learn the model's limit. One that does not answer is only logged.

        Raises:
            BadSetting: a server refuses the key or shows a strange certificate, or none has the model.
        """
        self._ask(lambda: look_around(self._client, self._servers, self._context), LOOK_AROUND_S)

    def alive(self) -> bool:
        return not self._closed and self._thread.is_alive()

    def figures(self) -> Figures:
        """See `Engine.figures`. Tokens by the servers' own count where they tell it; their caches are theirs."""
        return self._meter.figures(slots=self.slots, running=len(self._running), waiting=len(self._waiting))

    def close(self) -> None:
        """End every request with EngineStopped and close every connection."""
        with self._state:
            first, self._closed = not self._closed, True
            if first:
                self._loop.call_soon_threadsafe(self._shut)
        self._thread.join(_CLOSE_S)

    def _tell(self, callback: Callable[..., None], *arguments: object) -> bool:
        """Have the loop's thread call this, in the order of telling; False: the engine was closed."""
        with self._state:
            if not self._closed:
                self._loop.call_soon_threadsafe(callback, *arguments)
            return not self._closed

    def _ask(self, work: Callable[[], Coroutine[Any, Any, Outcome]], within_s: float) -> Outcome:
        """Run this in the loop's thread and wait for it. Raises what it raises, and TimeoutError, also if closed."""
        with self._state:
            if self._closed:
                raise TimeoutError("the engine was closed")
            future: Future[Outcome] = asyncio.run_coroutine_threadsafe(work(), self._loop)
        try:
            return future.result(within_s)
        except CancelledError:
            raise TimeoutError("the engine was closed") from None
        finally:
            future.cancel()

    def _run(self) -> None:
        """The loop's thread."""
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())  # it looked up the names of hosts
        finally:
            self._loop.close()

    def _enter(self, answer: Answer) -> None:
        """Take a slot or wait for one. This and all below: in the loop's thread."""
        request = answer.request
        self._waiting.add(answer, priority=request.priority, now_s=time.monotonic())
        if request.deadline_s is not None and request.deadline_s < threading.TIMEOUT_MAX:
            self._timers[answer] = self._loop.call_later(max(0.0, request.deadline_s), self._end, answer, "deadline")
        self._fill_slots()

    def _fill_slots(self) -> None:
        while self._waiting and len(self._running) < self.slots:
            answer = self._waiting.pop()
            self._running[answer] = task = self._loop.create_task(self._serve(answer))
            task.add_done_callback(functools.partial(self._served, answer))

    def _end(self, answer: Answer, reason: Finish) -> None:
        """End it now with what it has; its connection is closed after that, which a second cancel would disturb."""
        if not answer.ended:
            answer.finish(reason)
            self._leave(answer)

    def _leave(self, answer: Answer) -> None:
        if timer := self._timers.pop(answer, None):
            timer.cancel()
        if task := self._running.get(answer):
            task.cancel()  # its slot is free when its connection is closed
        else:
            self._waiting.discard(answer)

    async def _serve(self, answer: Answer) -> None:
        answer.finish(await self._relay.answer(answer))

    def _served(self, answer: Answer, task: asyncio.Task[None]) -> None:
        """Its slot is free. If it failed, its reader hears of it, or if it was cancelled by nobody who told it."""
        exc = None if task.cancelled() else task.exception()
        if isinstance(exc, SwitchyardError):
            answer.fail(exc)
        elif exc is not None:
            where = "".join(traceback.format_tb(exc.__traceback__))  # and not its text, which may quote somebody
            log.error("request failed", extra={"error": type(exc).__name__, "where": where})
            answer.fail(EngineStopped(f"the engine failed with {type(exc).__name__}"))
        elif task.cancelled():
            answer.fail(EngineStopped("the request was given up"))
        del self._running[answer]
        self._leave(answer)
        self._fill_slots()

    def _shut(self) -> None:
        left = [*self._waiting, *self._running]
        self._waiting = Waiting()
        for answer in left:
            answer.fail(EngineStopped("the engine was closed"))
            self._leave(answer)
        self._closing = self._loop.create_task(self._stop())

    async def _stop(self) -> None:
        """Close what is open, then end the loop."""
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.close()
        self._loop.stop()


class _CancelNow(Handle):
    """A handle whose cancel takes effect at once."""

    on_cancel: Callable[[], object]

    def cancel(self) -> None:
        super().cancel()
        self.on_cancel()
