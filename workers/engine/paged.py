"""The engine `paged`: transformers' continuous batching with its paged cache, flash attention and CUDA graphs, guarded.

The library computes and shares the cache between requests with the same beginning. It trusts its callers and dies with
everybody when one of them errs, so here stands what it lacks: nothing is handed over that could hurt it, a waiter is
ended by us and never left to the library, and when it has died all the same, those in flight are told and it begins
anew with the weights that are loaded. When it died for want of memory nobody need be told: it begins anew with less at
once, and they go on. Read `_round` first.
"""

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from app.errors import BadSetting, EngineStopped, EngineUnavailable, RequestRejected
from workers.engine.batcher import Batcher, Output
from workers.engine.checks import check_plain, check_request
from workers.engine.figures import Figures
from workers.engine.intake import Intake
from workers.engine.interface import Handle, Request
from workers.engine.load import Load
from workers.engine.loading import Loaded, load_model
from workers.engine.pages import Pages, plan_pages
from workers.engine.prompts import Messages
from workers.engine.readers import ODD, TOO_LARGE, Readers
from workers.engine.restarts import BEGINS_ANEW, Restarts
from workers.engine.runner import is_out_of_memory
from workers.engine.running import Running
from workers.engine.sequence import Sequence
from workers.engine.waiting import Waiting

log = logging.getLogger(__name__)

LOOK_S = 0.2  # how often the dispatcher looks whether the manager lives, when nothing wakes it
STOP_S = 30.0  # one step of a large model on a slow machine
TOLD_S = 0.5  # so long everybody waits for a library's thread that dies; then nobody does
HANGS = "the engine died and cannot begin anew yet"


class PagedEngine:
    """One model, `slots` requests at once. One thread of ours, the dispatcher, speaks with the library's."""

    def __init__(
        self,
        loaded: Loaded,
        *,
        slots: int,
        max_tokens: int,
        cache_tokens: int | None = None,
        graphs: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`cache_tokens`: what all running requests together may hold; None: `max_tokens` for every slot.

        `graphs`: of CUDA, where the library takes some.

        Raises:
            BadSetting: the cache does not fit into memory.
        """
        self.slots = slots
        wanted = min(max_tokens, loaded.length or max_tokens)
        pages = plan_pages(
            device=loaded.model.device.type,
            slots=slots,
            max_tokens=wanted,
            cache_tokens=cache_tokens,
        )
        self.max_tokens = min(wanted, pages.longest)  # prompt and answer together
        self._load = Load(slots=slots, step_tokens=pages.step_tokens, clock=clock)
        self._eased = 0
        self._batcher = Batcher(loaded, load=self._load, pages=pages, max_tokens=self.max_tokens, graphs=graphs)
        self._running = Running(pages)
        self._waiting: Waiting[Sequence] = Waiting()
        self._restarts = Restarts(clock)
        self._clock = clock
        self._readers = Readers(loaded.eos, remove=self._remove)
        self._intake = Intake(
            loaded,
            max_tokens=self.max_tokens,
            check=check_plain,
            clock=clock,
            new_handle=lambda: _Ringing(self._batcher.ring),
        )
        self._begin(pages)
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @classmethod
    def load(
        cls,
        model: str,
        *,
        slots: int,
        max_tokens: int,
        cache_tokens: int | None = None,
        device: str | None = None,
        dtype: str | None = None,
        threads: int | None = None,
        graphs: bool = True,
    ) -> "PagedEngine":
        """Load a folder or hub name. `threads`: of torch on a CPU; None: all cores but one.

        Raises:
            BadSetting: the model cannot be loaded or is of a kind that is not run, or the cache does not fit.
        """
        loaded = load_model(model, device=device, dtype=dtype)
        torch.set_num_threads(threads or max(1, torch.get_num_threads() - 1))  # also of threads that begin later
        return cls(loaded, slots=slots, max_tokens=max_tokens, cache_tokens=cache_tokens, graphs=graphs)

    def submit(self, request: Request) -> Handle:
        """Start a request. Its answer is at most what the prompt leaves of `max_tokens`, with finish "length".

        Raises:
            RequestRejected: a value is out of range, or the prompt leaves no room for an answer.
            EngineStopped: the engine died or was closed.
            EngineUnavailable: it died, and it takes a while until it begins anew, or not.
        """
        check_request(request)
        return self.start(self._intake.encode(request.messages), request).handle

    def start(self, prompt: list[int], request: Request, handle: Handle | None = None) -> Sequence:
        """Start a request whose prompt is tokens already; its messages are not looked at. Raises as `submit`."""
        sequence = self._intake.make(prompt, request, handle)
        self._intake.enter(sequence)
        self._batcher.ring()
        return sequence

    def fit(self, messages: Messages, max_new_tokens: int) -> Messages:
        """See `Engine.fit`; an answer reserves at most half of `max_tokens`. Raises RequestRejected."""
        return self._intake.fit(messages, max_new_tokens)

    def alive(self) -> bool:
        return self._intake.stopped is None and self._thread.is_alive()

    def figures(self) -> Figures:
        """See `Engine.figures`. What of a prompt was found in the cache, and what was thrown out of it for want of
        room, is the library's secret; `prompt_tokens` are of whole prompts."""
        return replace(
            self._intake.meter.figures(
                slots=self.slots,
                running=len(self._running),
                waiting=len(self._waiting) + self._intake.waiting,
            ),
            cache_tokens=self._running.room_tokens,
            cache_tokens_used=self._running.used_tokens,
            restarts=self._restarts.count,
            out_of_memory=self._eased,
        )

    def close(self) -> None:
        """End every request with EngineStopped, at once. Returns when the step that is running has ended."""
        self._intake.stop("the engine was closed")
        self._tell_all()
        self._batcher.ring()
        self._thread.join(STOP_S)

    def _begin(self, pages: Pages) -> None:
        try:
            self._batcher.start()
        except (RuntimeError, MemoryError) as exc:  # torch's own error of a full device is a RuntimeError
            size = f"{pages.total} pages of {pages.page_tokens} tokens"
            raise BadSetting(f"SWITCHYARD_CACHE_TOKENS: the cache of {size} cannot be made: {exc}") from exc

    def _run(self) -> None:
        """The dispatcher: rounds until it is told to stop, and wakes every waiter whatever happened."""
        try:
            while (
                self._intake.stopped is None and threading.main_thread().is_alive()
            ):  # the library's thread is no daemon
                self._round()
        except Exception:
            log.exception("engine died")
        finally:
            self._intake.stop("the engine died")
            self._tell_all()
            for sequence in self._intake.inside():
                self._remove(sequence)
            self._batcher.close(STOP_S)

    def _round(self) -> None:
        self._take_arrivals()
        self._end_early()
        self._admit()
        if not self._running and not self._waiting and self._load.more():
            self._start_anew()
        for output in self._batcher.outputs(self._patience_s()):
            self._hand_out(output)
        if self._batcher.down():
            self._revive()

    def _take_arrivals(self) -> None:
        for sequence in self._intake.arrivals():
            sequence.arrived_s = self._clock()
            try:
                self._queue(sequence)
            except Exception:  # one that cannot stand in the line harms nobody
                log.exception("request failed")
                self._readers.fail(sequence, RequestRejected(ODD))

    def _queue(self, sequence: Sequence) -> None:
        self._waiting.add(sequence, priority=sequence.request.priority, now_s=sequence.arrived_s)

    def _end_early(self) -> None:
        """Those that were cancelled or whose time is over leave with what they have."""
        now_s = self._clock()
        for sequence in [*self._running, *self._waiting]:
            if reason := sequence.ended_by(now_s):
                self._readers.leave(sequence, reason)

    def _admit(self) -> None:
        """Hand over who is next as long as there is a slot and room for the whole answer. Nobody overtakes."""
        while self._waiting and len(self._running) < self._load.slots and self._running.has_room(self._waiting.peek()):
            sequence = self._waiting.peek()
            name = self._running.next_name()
            try:
                prompt, max_new = sequence.prompt + sequence.new, sequence.max_new - len(sequence.new)
                added = self._batcher.add(name, prompt, max_new, sequence.request)
            except (TypeError, ValueError, OverflowError):  # a value that no library takes
                log.exception("request failed")
                self._readers.fail(sequence, RequestRejected(ODD))
                continue
            if not added:
                return  # down: it keeps its place in the line
            self._waiting.discard(sequence)
            self._running.add(name, sequence)
            sequence.begin()

    def _patience_s(self) -> float:
        """How long to wait for an output: until the manager must be looked at, or until the next deadline."""
        now_s = self._clock()
        ends_s = (each.ends_at_s - now_s for each in (*self._running, *self._waiting) if each.ends_at_s is not None)
        return max(0.0, min(LOOK_S, min(ends_s, default=LOOK_S)))

    def _hand_out(self, output: Output) -> None:
        """One request's new tokens. Whatever its reader does wrong ends this request alone."""
        sequence = self._running.get(output.name)
        if sequence is None:  # it was cancelled
            return
        if output.failed:
            if not self._batcher.down():  # else all of them failed, and the round ends with the manager's restart
                self._readers.fail(sequence, EngineStopped("the engine could not run this request"))
            return
        at = len(sequence.new) - self._running.brought(output.name)
        if not sequence.new and output.tokens:
            sequence.course.prompt(len(sequence.prompt))
        for token, sound in zip(output.tokens[at:], output.sound[at:], strict=True):
            if not math.isfinite(sound):
                self._readers.fail(sequence, RequestRejected("the model's numbers overflowed on this prompt"))
                return
            if not self._readers.give(sequence, token):
                return
        if output.ended:  # the library counts and knows the ends as we do; were it ever to differ, nobody waits for it
            self._readers.leave(sequence, "length")

    def _remove(self, sequence: Sequence) -> None:
        """Out of the line, or out of the manager: it says nothing of a cancelled request, so the waiter is ours."""
        self._waiting.discard(sequence)
        name = self._running.remove(sequence)
        if name is not None:
            self._batcher.cancel(name)
        self._intake.leave(sequence)

    def _revive(self) -> None:
        """Begin anew; those in the line keep their places. Raises if it does not help."""
        log.error("engine restarts", extra={"in_flight": len(self._running), "in_line": len(self._waiting)})
        ended = self._batcher.ends(TOLD_S)
        if not (ended and self._batcher.out_of_memory() and self._ease()):
            for sequence in list(self._running):
                self._readers.fail(sequence, EngineStopped(BEGINS_ANEW))
            self._restarts.note()
        if not ended:
            self._turn_away()
        self._start_anew()
        self._intake.resume()

    def _ease(self) -> bool:
        """There was no memory: do less at once, with those in flight back in the line and what they have written.

        One that has no memory even alone, in the smallest steps, is refused. False: nobody was there, and less is not.
        """
        running = list(self._running)
        if len(running) == 1 and self._load.smallest_step:
            self._readers.fail(running[0], RequestRejected(TOO_LARGE))
        elif self._load.less():
            for sequence in running:
                self._running.remove(sequence)
                self._queue(sequence)
        else:
            return False
        self._eased += 1
        return True

    def _start_anew(self) -> None:
        """Another manager in the place of this one. Raises if this one does not end, or what the device raises."""
        if not self._batcher.stop(STOP_S):
            raise EngineStopped("the library's thread does not end")
        while True:
            try:
                self._batcher.start()
            except (RuntimeError, MemoryError) as exc:
                if not is_out_of_memory(exc) or not self._load.less():
                    raise
            else:
                return

    def _turn_away(self) -> None:
        """The library's thread hangs in its death: nobody in the line waits for it, and nobody joins the line."""
        self._intake.pause(HANGS)
        for sequence in self._intake.inside():
            self._readers.fail(sequence, EngineUnavailable(HANGS))

    def _tell_all(self) -> None:
        """It is over. From any thread: nobody waits for the library."""
        self._readers.tell(self._intake.inside(), EngineStopped(self._intake.stopped or ""))


class _Ringing(Handle):
    """A handle whose cancel wakes the dispatcher."""

    def __init__(self, ring: Callable[[], None]) -> None:
        super().__init__()
        self._ring = ring

    def cancel(self) -> None:
        super().cancel()
        self._ring()
