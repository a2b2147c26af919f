"""Runs a plan on the model: tensors in, logits out. Nothing here knows requests or time."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from app.errors import BadSetting
from workers.engine.cache import TokenCache
from workers.engine.packing import Packed, Packing
from workers.engine.scheduler import Chunk, Plan
from workers.engine.spans import Span

OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "STATUS_ALLOC_FAILED", "std::bad_alloc")


class Runner:
    """A served model (see `serving.py`) and the cache of its sequences. The same calls on CPU and CUDA; one thread."""

    def __init__(self, model: Any, *, cache_tokens: int, step_tokens: int) -> None:
        """`step_tokens`: the most tokens of one step, prompts and rows together."""
        self._model, self._device = model, model.device
        self._cache = TokenCache(layers=model.config.get_text_config().num_hidden_layers, tokens=cache_tokens)
        self._packing = Packing(step_tokens, model.device)

    def try_out(self) -> None:
        """Make the whole cache once, and compute one token. Raises BadSetting if there is no memory for it."""
        try:
            self.run(Plan(fresh=(), chunks=(Chunk(Span(0, 1), 0, [0]),), rows=()))
        except (RuntimeError, MemoryError) as exc:
            if not is_out_of_memory(exc):
                raise
            size = f"{self._cache.tokens} tokens"
            raise BadSetting(f"SWITCHYARD_CACHE_TOKENS: the cache of {size} does not fit into memory") from exc
        self.rest()

    @torch.inference_mode()
    def run(self, plan: Plan) -> Tensor | None:
        """Do the plan in one forward. Returns float32 logits [rows, vocabulary]; None without rows."""
        for copy in plan.copies:
            self._cache.copy(copy.start, copy.to, copy.tokens)
        if plan.fresh:
            self._cache.wipe([(fresh.start, fresh.end) for fresh in plan.fresh])
        packed = self._packing.pack(plan)
        self._cache.places = packed.places
        forward = {
            "input_ids": packed.tokens,
            "position_ids": packed.positions,
            "past_key_values": self._cache,
            "use_cache": True,
            "batch": packed.batch,
        }
        with self._for(packed) as model:
            if not plan.rows:  # a vocabulary's worth of numbers for a token that nobody waits for
                model.base_model(**forward)
                return None
            logits: Tensor = model(**forward, logits_to_keep=len(plan.rows)).logits
        return logits[0].float()

    def _for(self, packed: Packed) -> AbstractContextManager[Any]:
        """The model, or the same with adapters for those tokens that have one."""
        return packed.parts[0].adapter.host.adding(packed.parts) if packed.parts else nullcontext(self._model)

    def rest(self) -> None:
        """Nobody is running: give the cache's memory back."""
        self._cache.drop()

    def spare(self) -> None:
        """Memory was short: give the device what torch keeps for later."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is a device's, or this machine's, word for having no memory left."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in OUT_OF_MEMORY)
