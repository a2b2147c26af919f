"""The engine `slots`: continuous batching on models of Hugging Face, on CPU and CUDA.

Requests join at the next step and leave at once. Read `_step` first: the scheduler decides what it computes, the
runner computes it, the sampler picks tokens, and they are handed out.
"""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from app.errors import EngineStopped, RequestRejected, SwitchyardError
from workers.engine.adapter_rules import AdapterRules, AdapterStatus
from workers.engine.adapters import Adapters
from workers.engine.checks import check_messages, check_sampling
from workers.engine.fitting import fit_messages
from workers.engine.interface import Finish, Handle, Request
from workers.engine.loading import Loaded, load_model
from workers.engine.processors import check_processors
from workers.engine.runner import Runner
from workers.engine.sampling import pick
from workers.engine.scheduler import Row, Scheduler
from workers.engine.sequence import Answer, Sequence
from workers.engine.serving import serve, trial

log = logging.getLogger(__name__)

PREFILL_TOKENS = {"cpu": 256, "cuda": 2048}  # of prompts, between two tokens of everybody else
UNPICKED = "no token could be picked: the model's numbers overflowed on this prompt, or a logit processor failed"
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
        adapters: AdapterRules | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`cache_tokens`: what all running requests together may hold; None: `max_tokens` for every slot.

        Raises:
            BadSetting: the model is of a kind that this engine does not run.
        """
        cache_tokens = cache_tokens or slots * max_tokens
        self.slots = slots
        self.max_tokens = min(max_tokens, loaded.length or max_tokens, cache_tokens)  # prompt and answer together
        self._prompts, self._eos, self._vocabulary = loaded.prompts, loaded.eos, loaded.vocabulary
        prefill_tokens = prefill_tokens or PREFILL_TOKENS.get(loaded.model.device.type, 2048)
        served = serve(loaded.model)
        runner = Runner(served, cache_tokens=cache_tokens, step_tokens=prefill_tokens + slots)
        self._scheduler = Scheduler(slots=slots, prefill_tokens=prefill_tokens, cache_tokens=cache_tokens)
        self._adapters = Adapters(served, trial, adapters)
        self._adapters.load_all()
        self._clock, self._threads = clock, threads
        self._state = threading.Condition()  # guards the next two
        self._arrived: list[Sequence] = []
        self._stopped: str | None = None  # why, once it takes no more
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
    ) -> "SlotsEngine":
        """Load a folder or hub name. `threads`: of torch on a CPU; None: all cores but one.

        Torch's threads wait for each other in every layer: when another process has one of their cores, all crawl.

        Raises:
            BadSetting: the model cannot be loaded, or is of a kind that this engine does not run.
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
        return self.start(self._prompts.encode(request.messages), request).handle

    def start(self, prompt: list[int], request: Request, handle: Handle | None = None) -> Sequence:
        """Start a request whose prompt is tokens already; its messages are not looked at. Raises as `submit`."""
        check_sampling(request)
        check_processors(request.processors)
        if not prompt or len(prompt) >= self.max_tokens:
            raise RequestRejected(f"prompt: has {len(prompt)} tokens, there is room for 1 to {self.max_tokens - 1}")
        if min(prompt) < 0 or max(prompt) >= self._vocabulary:
            raise RequestRejected("prompt: a token is not in the model's vocabulary")
        sequence = Sequence(
            request=request,
            handle=handle or Handle(),
            prompt=prompt,
            max_new=min(request.max_new_tokens, self.max_tokens - len(prompt)),
            ends_at_s=None if request.deadline_s is None else self._clock() + request.deadline_s,
            answer=Answer(self._prompts.decode, request.stop),
        )
        self._adapters.lend(sequence)
        with self._state:
            if self._stopped is not None:
                self._adapters.give_back(sequence)
                raise EngineStopped(self._stopped)
            self._arrived.append(sequence)
            self._state.notify()
        return sequence

    def fit(self, messages: tuple[tuple[str, str], ...], max_new_tokens: int) -> tuple[tuple[str, str], ...]:
        """See `Engine.fit`; an answer reserves at most half of `max_tokens`. Raises RequestRejected."""
        check_messages(messages)
        return fit_messages(
            messages, limit_tokens=self.max_tokens, max_new_tokens=max_new_tokens, measure=self._prompts.measure
        )

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
        return self._stopped is None and self._thread.is_alive()

    def close(self) -> None:
        """End every request with EngineStopped. Returns when the step that is running has ended."""
        self._stop("the engine was closed")
        self._thread.join(CLOSE_S)

    def _stop(self, why: str) -> None:
        """Take no more. The first reason counts."""
        with self._state:
            self._stopped = self._stopped or why
            self._state.notify()

    def _run(self, runner: Runner) -> None:
        """The engine's thread: steps until it is told to stop, and wakes every waiter whatever happened.

        It alone holds the runner, so that the model's memory is free when it ends.
        """
        try:
            if self._threads is not None:
                torch.set_num_threads(self._threads)
            while self._take_arrivals(runner):
                self._step(runner)
        except Exception:
            log.exception("engine died")
        finally:
            self._stop("the engine died")
            self._fail_all()
            self._adapters.close()

    def _take_arrivals(self, runner: Runner) -> bool:
        """Move new requests to the scheduler; waits while there is nothing at all to do. False: stop."""
        with self._state:
            if not self._busy():
                runner.rest()
                self._state.wait_for(self._busy)
            arrived, self._arrived = self._arrived, []
        now_s = self._clock()
        for sequence in arrived:
            self._scheduler.add(sequence, now_s=now_s)
        return self._stopped is None

    def _busy(self) -> bool:
        return bool(self._scheduler or self._arrived or self._stopped)

    def _step(self, runner: Runner) -> None:
        self._end_early()
        if self._scheduler:
            plan = self._scheduler.plan()
            logits = runner.run(plan)
            if logits is not None:
                self._hand_out(plan.rows, pick(logits, [row.sequence for row in plan.rows], self._eos))

    def _end_early(self) -> None:
        """Those that were cancelled or whose time is over leave with what they have."""
        for sequence, reason in self._scheduler.ended(self._clock()):
            self._leave(sequence, reason)

    def _hand_out(self, rows: tuple[Row, ...], tokens: list[int | None]) -> None:
        for row, token in zip(rows, tokens, strict=True):
            if token is None:
                self._fail(row.sequence, RequestRejected(UNPICKED))
            else:
                self._give(row.sequence, token)

    def _give(self, sequence: Sequence, token: int) -> None:
        """One token to one request. Whatever its reader does wrong ends this request alone."""
        try:
            reason = sequence.take(token, self._eos)
        except Exception:
            log.exception("reader failed")
            self._fail(sequence, EngineStopped("the reader of this request failed"))
            return
        if reason is not None:
            self._leave(sequence, reason)

    def _leave(self, sequence: Sequence, reason: Finish) -> None:
        self._remove(sequence)
        try:
            sequence.finish(reason)
        except Exception:
            log.exception("reader failed")
            self._fail(sequence, EngineStopped("the reader of this request failed"))

    def _fail(self, sequence: Sequence, error: SwitchyardError) -> None:
        self._remove(sequence)
        try:
            sequence.handle.fail(error)
        except Exception:
            log.exception("reader failed")

    def _remove(self, sequence: Sequence) -> None:
        self._scheduler.remove(sequence)
        self._adapters.give_back(sequence)

    def _fail_all(self) -> None:
        with self._state:
            left = [*self._scheduler, *self._arrived]
            self._arrived = []
        for sequence in left:
            self._fail(sequence, EngineStopped(self._stopped or ""))
