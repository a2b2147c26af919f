"""Runs a plan on the model: tensors in, logits out. Nothing here knows requests or time."""

from typing import Any

import torch
from torch import Tensor

from workers.engine.cache import SlotCache
from workers.engine.scheduler import Chunk, Plan, Row


class Runner:
    """One model and the cache of its slots. The same calls on CPU and CUDA; one thread only."""

    def __init__(self, model: Any, *, slots: int, length: int) -> None:
        self._model = model
        self._device = model.device
        self._cache = SlotCache(layers=model.config.get_text_config().num_hidden_layers, slots=slots, length=length)

    @torch.inference_mode()
    def run(self, plan: Plan) -> Tensor | None:
        """Do the plan's moves, chunks and rows. Returns float32 logits [rows, vocabulary]; None without rows."""
        for move in plan.moves:
            self._cache.move(move.source, move.target, move.tokens)
        self._reserve(plan)
        for chunk in plan.chunks:
            self._prefill(chunk)
        return self._decode(plan.rows) if plan.rows else None

    def rest(self) -> None:
        """Nobody is running: give the cache's memory back."""
        self._cache.drop()

    def _reserve(self, plan: Plan) -> None:
        slots = max([len(plan.rows), *(chunk.slot + 1 for chunk in plan.chunks)])
        ends = [chunk.start + len(chunk.tokens) for chunk in plan.chunks] + [row.position + 1 for row in plan.rows]
        self._cache.reserve(slots, max(ends))

    def _prefill(self, chunk: Chunk) -> None:
        """Put part of one prompt into its slot: a batch of one row with many tokens. Its logits are not needed."""
        end = chunk.start + len(chunk.tokens)
        positions = torch.arange(chunk.start, end, device=self._device)
        place = self._cache.place
        place.rows, place.length, place.start = slice(chunk.slot, chunk.slot + 1), end, chunk.start
        place.positions = place.slots = None
        self._forward(torch.tensor([chunk.tokens], device=self._device), positions[None])

    def _decode(self, rows: tuple[Row, ...]) -> Tensor:
        """One token for each of the slots 0..n-1, each at its own position."""
        positions = torch.tensor([row.position for row in rows], device=self._device)
        place = self._cache.place
        place.rows, place.length = slice(0, len(rows)), max(row.position for row in rows) + 1
        place.positions, place.slots = positions, torch.arange(len(rows), device=self._device)
        tokens = torch.tensor([[row.token] for row in rows], device=self._device)
        return self._forward(tokens, positions[:, None])[:, -1].float()

    def _forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Logits [rows, 1, vocabulary] of the last token of each row; tokens and positions are int64 [rows, T]."""
        seen = torch.arange(self._cache.place.length, device=self._device)
        logits: Tensor = self._model(
            input_ids=tokens,
            position_ids=positions,
            attention_mask=(seen <= positions[..., None])[:, None],  # bool [rows, 1, T, length], True: is seen
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        return logits
