"""transformers' ContinuousBatchingManager, seen by the one thread that uses it: requests in, tokens out, dead or not.

What the engine `paged` must know of the library stands here and in `draws`; the traps are named where they are avoided.
"""

import logging
import secrets
from dataclasses import dataclass
from typing import Any

from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.requests import GenerationOutput

from workers.engine.draws import draws
from workers.engine.interface import Request
from workers.engine.load import Load
from workers.engine.loading import Loaded
from workers.engine.pages import Pages
from workers.engine.runner import is_out_of_memory

LIBRARY_LOG = "ContinuousBatchingLogger"
BELL = "bell"  # the name of an output that is none: it wakes the reader


@dataclass(frozen=True, slots=True)
class Output:
    """What a step made of one request. `tokens` and `sound` are of the whole answer so far."""

    name: str
    tokens: list[int]
    sound: list[float]  # the logarithm of each token's probability; not a number where the model's numbers overflowed
    ended: bool
    failed: bool


class Batcher:
    """One manager after another on one model. All methods but `ring` are for one thread."""

    def __init__(self, loaded: Loaded, *, load: Load, pages: Pages, max_tokens: int, graphs: bool) -> None:
        self._model, self._eos = loaded.model, sorted(loaded.eos)
        self._load, self._pages, self._max_tokens, self._graphs = load, pages, max_tokens, graphs
        self._manager: Any = None
        quieten()

    def start(self) -> None:
        """Make the cache, and the CUDA graphs where there are some, and begin. Raises what the device raises.

        Always a new manager: one that was stopped has put the model's attention back to what it was before it chose
        flash attention, and would start again with the plans for one and the kernels of the other.
        """
        manager = self._model.init_continuous_batching(
            generation_config=GenerationConfig(do_sample=False, eos_token_id=self._eos or -1),
            continuous_batching_config=self._config(),
        )
        manager.logit_processor = draws()
        manager.warmup()
        manager.start()
        self._manager = manager

    def add(self, name: str, prompt: list[int], max_new: int, request: Request) -> bool:
        """Hand over a request; False: the manager is dead. True promises nothing: it may be dying.

        Raises TypeError, ValueError or OverflowError if a value is none that the library takes.
        """
        seed = secrets.randbits(63) if request.seed is None else request.seed
        added = self._manager.add_request(
            prompt,
            request_id=name,
            max_new_tokens=max_new,
            streaming=True,
            temperature=float(request.temperature),
            top_p=float(request.top_p),
            top_k=min(request.top_k, 2**31 - 1),
            seed_high=seed >> 32,
            seed_low=(seed & 0xFFFFFFFF) - (seed & 0x80000000) * 2,  # as a signed number of 32 bits
        )
        return added is not None

    def cancel(self, name: str) -> None:
        """Free its place at the next step; no output of it follows. Nothing happens if the manager is gone."""
        if self._manager is not None:
            self._manager.cancel_request(name)

    def ring(self) -> None:
        """Wake whoever waits in `outputs`. From any thread, also when there is no manager."""
        manager = self._manager
        if manager is not None:
            manager.output_router.deliver(GenerationOutput(request_id=BELL))

    def outputs(self, timeout_s: float) -> list[Output]:
        """What came, oldest first; waits for the first one."""
        found: list[Output] = []
        made = self._manager.get_result(timeout=max(0.0, timeout_s))
        while made is not None:
            if made.request_id != BELL:
                failed = made.error is not None
                found.append(Output(made.request_id, made.generated_tokens, made.logprobs, made.is_finished(), failed))
            made = self._manager.get_result(timeout=0)
        return found

    def down(self) -> bool:
        """Whether the manager takes nothing more. Its thread may have ended with or without a word."""
        manager = self._manager
        return not manager.is_running() or manager.background_thread_status.can_accept_new_requests() is not None

    def out_of_memory(self) -> bool:
        """Whether that is what a manager died of."""
        error = self._manager.background_thread_status.fatal_error
        return error is not None and is_out_of_memory(error)

    def ends(self, timeout_s: float) -> bool:
        """Whether the thread of a manager that is down has ended; waits so long for it."""
        thread = self._manager._generation_thread
        if thread is not None:
            thread.join(timeout_s)
        return not self._manager.is_running()

    def stop(self, timeout_s: float) -> bool:
        """End the manager and free its cache; the model stays. False: its thread did not end in time."""
        manager, self._manager = self._manager, None
        if manager is None:
            return True
        manager.stop(block=True, timeout=timeout_s, hard_stop=True)
        error = manager.background_thread_status.fatal_error
        if error is not None:  # it holds the cache and a step's tensors, and the next manager makes a cache of its own
            error.__traceback__ = None
        return not manager.is_running()

    def close(self, timeout_s: float) -> None:
        """Stop for good and let go of the model."""
        try:
            self.stop(timeout_s)
        finally:
            self._model = None

    def _config(self) -> Any:
        pages, on_cuda = self._pages, self._model.device.type == "cuda"
        most = pages.needed(self._max_tokens)
        return ContinuousBatchingConfig(
            page_size=pages.page_tokens,
            num_blocks=pages.total,
            safety_margin=pages.margin,
            max_batch_tokens=self._load.step_tokens,
            max_requests_per_batch=self._load.slots,
            max_blocks_per_request=most + most % 2 if on_cuda else 0,
            auto_switch_to_flash=on_cuda,
            # With it a request that is cancelled while its step computes is looked up after it was thrown out, and the
            # KeyError ends everybody. It hides the work between two steps, which is small beside the model's.
            use_async_batching=False,
            use_cuda_graph=None if self._graphs else False,  # None: where attention needs no mask
            return_logprobs=True,
        )


def quieten() -> None:
    """The library prints to stderr by a handler of its own, now and then the first and last tokens of a prompt: only
    what comes with a traceback is let through, into our own log."""
    log = logging.getLogger(LIBRARY_LOG)
    log.setLevel(logging.ERROR)
    log.addFilter(with_traceback)
    log.propagate = True
    for handler in list(log.handlers):
        log.removeHandler(handler)


def with_traceback(record: logging.LogRecord) -> bool:
    return bool(record.exc_info)
