"""The engine `slots`: continuous batching on models of Hugging Face, on CPU and CUDA.

Requests join at the next step and leave at once. Read `_step` first: the scheduler decides what it computes, the
runner computes it, the sampler picks tokens, and they are handed out.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from app.errors import EngineStopped, RequestRejected
from workers.engine.adapter_rules import AdapterRules, AdapterStatus
from workers.engine.adapters import Adapters
from workers.engine.checks import check_messages, check_sampling
from workers.engine.figures import Figures
from workers.engine.intake import Intake
from workers.engine.interface import Handle, Request
from workers.engine.loading import Loaded, load_model
from workers.engine.processors import check_processors
from workers.engine.prompts import Messages
from workers.engine.readers import ODD, TOO_LARGE, Readers
from workers.engine.restarts import BEGINS_ANEW, Restarts
from workers.engine.runner import Runner, is_out_of_memory
from workers.engine.sampling import pick
from workers.engine.scheduler import Plan, Row, Scheduler
from workers.engine.sequence import Sequence
from workers.engine.serving import serve, trial

log = logging.getLogger(__name__)

PREFILL_TOKENS = {"cpu": 256, "cuda": 2048}  # of prompts, between two tokens of everybody else
UNPICKED = "no token could be picked: the model's numbers overflowed on this prompt, or a logit processor failed"
KEEP_S = 600.0
CLOSE_S = 30.0  # one step of a large model on a slow machine


class SlotsEngine:
    """One model, `slots` requests at once; one thread of its own does all the computing."""

    def __init__(
        self,
        loaded: Loaded,
        *,
        slots: int,
        max_tokens: int,
        cache_tokens: int | None = None,
        threads: int | None = None,
        prefill_tokens: int | None = None,
        keep_s: float = KEEP_S,
        adapters: AdapterRules | None = None,
        compiled: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`cache_tokens`: what all running requests together may hold; None: `max_tokens` for every slot.

        `keep_s`: when nobody asked for so long, what was kept for follow-ups is forgotten. `compiled`: by torch.

        Raises:
            BadSetting: the model is of a kind that this engine does not run, or the cache does not fit into memory.
        """
        cache_tokens = cache_tokens or slots * max_tokens
        self.slots = slots
        self.max_tokens = min(max_tokens, loaded.length or max_tokens, cache_tokens)  # prompt and answer together
        prefill_tokens = prefill_tokens or PREFILL_TOKENS.get(loaded.model.device.type, 2048)
        served = serve(loaded.model, compiled=compiled)
        runner = Runner(served, cache_tokens=cache_tokens, step_tokens=prefill_tokens + slots)
        runner.try_out()
        self._scheduler = Scheduler(slots=slots, prefill_tokens=prefill_tokens, cache_tokens=cache_tokens)
        self._adapters = Adapters(served, trial, adapters)
        self._adapters.load_all()
        self._clock, self._threads, self._eos = clock, threads, loaded.eos
        self._keep_s = keep_s
        self._intake = Intake(loaded, max_tokens=self.max_tokens, check=_check, clock=clock)
        self._readers = Readers(loaded.eos, remove=self._remove)
        self._restarts = Restarts(clock)
        self._cache_tokens, self._eased = cache_tokens, 0
        self._thread = threading.Thread(target=self._run, args=(runner,), name="engine", daemon=True)
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
        adapters: AdapterRules | None = None,
        compiled: bool = False,
    ) -> "SlotsEngine":
        """Load a folder or hub name. `threads`: of torch on a CPU; None: all cores but one.

        Torch's threads wait for each other in every layer: when another process has one of their cores, all crawl.

        Raises:
            BadSetting: the model cannot be loaded or is of a kind that is not run, or the cache does not fit.
        """
        loaded = load_model(model, device=device, dtype=dtype)
        threads = threads or max(1, torch.get_num_threads() - 1)
        return cls(
            loaded,
            slots=slots,
            max_tokens=max_tokens,
            cache_tokens=cache_tokens,
            threads=threads,
            adapters=adapters,
            compiled=compiled,
        )

    def submit(self, request: Request) -> Handle:
        """Start a request. Its answer is at most what the prompt leaves of `max_tokens`, with finish "length".

        Raises:
            RequestRejected: a value is out of range, the prompt leaves no room, or there is no such adapter.
            EngineUnavailable: there is no room now for the adapter that it names.
            EngineStopped: the engine died or was closed.
        """
        check_messages(request.messages)
        check_sampling(request)
        return self.start(self._intake.encode(request.messages), request).handle

    def start(self, prompt: list[int], request: Request, handle: Handle | None = None) -> Sequence:
        """Start a request whose prompt is tokens already; its messages are not looked at. Raises as `submit`."""
        sequence = self._intake.make(prompt, request, handle)
        self._adapters.lend(sequence)
        try:
            self._intake.enter(sequence)
        except EngineStopped:
            self._adapters.give_back(sequence)
            raise
        return sequence

    def fit(self, messages: Messages, max_new_tokens: int) -> Messages:
        """See `Engine.fit`; an answer reserves at most half of `max_tokens`. Raises RequestRejected."""
        return self._intake.fit(messages, max_new_tokens)

    def load_adapter(self, name: str, folder: Path) -> None:
        """Read the folder that PEFT wrote; new requests may name it, also in place of another one of that name.

        Others run on meanwhile. Raises BadAdapter, EngineUnavailable (all that are in memory are in use).
        """
        self._adapters.load(name, folder)

    def drop_adapter(self, name: str) -> None:
        """No new request gets it; who has it keeps it to the end. Raises BadAdapter if there is none."""
        self._adapters.drop(name)

    def adapters(self) -> tuple[AdapterStatus, ...]:
        """Those that a request may name, by name."""
        return self._adapters.status()

    def alive(self) -> bool:
        return self._intake.stopped is None and self._thread.is_alive()

    def figures(self) -> Figures:
        """See `Engine.figures`. All of them are known."""
        return replace(
            self._intake.meter.figures(
                slots=self.slots,
                running=self._scheduler.running,
                waiting=self._scheduler.waiting + self._intake.waiting,
            ),
            reused_tokens=self._scheduler.places.reused_tokens,
            cache_tokens=self._cache_tokens,
            cache_tokens_used=self._scheduler.used_tokens,
            evictions=self._scheduler.places.evictions,
            restarts=self._restarts.count,
            out_of_memory=self._eased,
        )

    def close(self) -> None:
        """End every request with EngineStopped, at once. Returns when the step that is running has ended."""
        self._intake.stop("the engine was closed")
        self._tell_all()
        self._thread.join(CLOSE_S)

    def _run(self, runner: Runner) -> None:
        """The engine's thread: steps until it is told to stop, and wakes every waiter whatever happened.

        It alone holds the runner, so that the model's memory is free when it ends.
        """
        try:
            if self._threads is not None:
                torch.set_num_threads(self._threads)
            while self._take_arrivals(runner):
                try:
                    self._step(runner)
                except Exception:
                    log.exception("engine restarts", extra={"in_flight": self._scheduler.running})
                    self._begin_anew(runner)
        except Exception:
            log.exception("engine died")
        finally:
            self._intake.stop("the engine died")
            self._tell_all()
            for sequence in self._intake.inside():
                self._remove(sequence)
            self._adapters.close()

    def _take_arrivals(self, runner: Runner) -> bool:
        """Move new requests to the scheduler; waits while there is nothing at all to do. False: stop."""
        arrived = self._intake.arrivals()
        if not arrived and not self._scheduler:
            self._rest(runner)
            arrived = self._intake.arrivals()
        now_s = self._clock()
        for sequence in arrived:
            self._take(sequence, now_s)
        return self._intake.stopped is None

    def _take(self, sequence: Sequence, now_s: float) -> None:
        """Put it into the line. One that cannot stand there harms nobody."""
        try:
            self._scheduler.add(sequence, now_s=now_s)
        except Exception:
            log.exception("request failed")
            self._readers.fail(sequence, RequestRejected(ODD))

    def _rest(self, runner: Runner) -> None:
        """Wait for somebody. What is kept for follow-ups stays for a while; then its memory is given back."""
        places = self._scheduler.places
        if not places.kept or not self._intake.wait(self._keep_s):
            places.forget()
            runner.rest()
            self._intake.wait()

    def _step(self, runner: Runner) -> None:
        self._end_early()
        if not self._scheduler:
            return
        plan = self._scheduler.plan()
        try:
            logits = runner.run(plan)
            tokens = [] if logits is None else pick(logits, [row.sequence for row in plan.rows], self._eos)
        except (RuntimeError, MemoryError) as exc:
            if not is_out_of_memory(exc):
                raise
            self._ease(runner, plan)
        else:
            self._intake.meter.prompt(plan.prompt_tokens)
            self._hand_out(plan.rows, tokens)

    def _ease(self, runner: Runner, plan: Plan) -> None:
        """Do less at once, and say no to one that has no memory even by itself."""
        log.warning("out of memory", extra={"in_flight": self._scheduler.running})
        runner.spare()
        self._eased += 1
        if not self._scheduler.ease(plan):
            (alone,) = self._scheduler.in_flight()
            self._readers.fail(alone, RequestRejected(TOO_LARGE))

    def _begin_anew(self, runner: Runner) -> None:
        """Tell those in flight, and go on with an empty cache; those in the line keep their places.

        Raises EngineStopped if that was tried too often, or what the device raises.
        """
        for sequence in self._scheduler.in_flight():
            self._readers.fail(sequence, EngineStopped(BEGINS_ANEW))
        self._restarts.note()
        self._scheduler.places.forget()
        runner.rest()

    def _end_early(self) -> None:
        """Those that were cancelled or whose time is over leave with what they have."""
        for sequence, reason in self._scheduler.ended(self._clock()):
            self._readers.leave(sequence, reason)

    def _hand_out(self, rows: tuple[Row, ...], tokens: list[int | None]) -> None:
        for row, token in zip(rows, tokens, strict=True):
            if token is None:
                self._readers.fail(row.sequence, RequestRejected(UNPICKED))
            else:
                self._readers.give(row.sequence, token)

    def _remove(self, sequence: Sequence) -> None:
        self._scheduler.remove(sequence)
        self._adapters.give_back(sequence)
        self._intake.leave(sequence)

    def _tell_all(self) -> None:
        """It is over. From any thread: nobody waits for the step that is running."""
        self._readers.tell(self._intake.inside(), EngineStopped(self._intake.stopped or ""))


def _check(request: Request) -> None:
    check_processors(request.processors)
