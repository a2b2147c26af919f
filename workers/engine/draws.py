"""How transformers' continuous batching picks tokens for us: greedy, or drawn by each request's parameters and seed.

The library's own warpers sort the whole vocabulary twice for every row, die with all requests on a `top_k` of 0 or
beyond the vocabulary, know one seed for all, and draw even where the request is greedy. So the manager takes the
argmax, and what stands here adds noise to the rows that are to be drawn: the argmax of `score / temperature + Gumbel
noise` is a draw by the probabilities. The noise is a pure function of seed, position and token, so that neither the
company in the batch nor the order of steps changes it, and it runs inside a CUDA graph.
"""

import struct
from typing import Any

import torch
from torch import Tensor
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
)
from transformers.generation.logits_process import LogitsProcessorList

GOLDEN = 0x9E3779B97F4A7C15  # splitmix64: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", 2014
MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
BITS = 23  # with a half added still exact in a float32, so never 0 and never 1


def draws() -> Any:
    """The processors for a manager that takes the argmax; set it as its `logit_processor` before it starts."""
    arguments = [
        Argument("temperature", 0.0),
        Argument("top_p", 1.0),
        Argument("top_k", 0),
        Argument("seed_high", 0),
        Argument("seed_low", 0),
    ]
    processors = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([*arguments, Draw(*arguments)]))
    processors.tensors_required = len(processors.logits_processor)  # counted by the library for its own warpers only
    return processors


class Argument(ContinuousBatchingLogitsProcessor):  # type: ignore[misc]  # transformers has no types
    """One number of each request on its way to the device; changes no score. The library gives a processor one row."""

    ignored_kwargs = ()

    def __init__(self, name: str, default: float | int) -> None:
        self._name, self._default = name, default
        self._kind = type(default)
        self.supported_kwargs = {name: self._kind}
        self._row: Tensor | None = None

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        int32_tensor.fill_(self._bits(self._default))

    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> Tensor:
        """int32 [requests]; a float as its bits."""
        chosen = [
            request.state.logit_processor_kwargs.get(self._name, self._default) for request in requests_with_new_token
        ]
        return torch.tensor([self._bits(number) for number in chosen], dtype=torch.int32)

    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:
        self._row = tensor_arg
        return scores

    def column(self, rows: int) -> Tensor:
        """What the last call brought: [rows, 1], float32 or int64."""
        if self._row is None:
            raise RuntimeError(f"{self._name} is read before it came")
        row = self._row[:rows]
        return (row.view(torch.float32) if self._kind is float else row.long())[:, None]

    def _bits(self, number: float | int) -> int:
        return struct.unpack("<i", struct.pack("<f", number))[0] if self._kind is float else int(number)


class Draw(ContinuousBatchingLogitsProcessor):  # type: ignore[misc]
    """Adds the noise. Its own argument is the position of the token that is drawn."""

    supported_kwargs: dict[str, type] = {}  # noqa: RUF012  # the library's own form
    ignored_kwargs = ()

    def __init__(
        self, temperature: Argument, top_p: Argument, top_k: Argument, seed_high: Argument, seed_low: Argument
    ) -> None:
        self._temperature, self._top_p, self._top_k = temperature, top_p, top_k
        self._seed_high, self._seed_low = seed_high, seed_low

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> Tensor:
        return torch.tensor([request.state.position_offset for request in requests_with_new_token], dtype=torch.int32)

    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:
        """Scores float32 [rows, vocabulary] whose argmax is the token to take."""
        rows = scores.shape[0]
        temperature = self._temperature.column(rows)
        if scores.device.type == "cpu" and not (temperature > 0).any():  # elsewhere a captured graph serves both
            return scores
        scaled = scores / temperature.where(temperature > 0, 1.0)
        kept = candidates(scaled, top_p=self._top_p.column(rows), top_k=self._top_k.column(rows))
        seed = (self._seed_high.column(rows) << 32) | (self._seed_low.column(rows) & 0xFFFFFFFF)
        noise = gumbel(seed, tensor_arg[:rows].long()[:, None], vocabulary=scores.shape[1])
        return torch.where(temperature > 0, kept + noise, scores)


def candidates(scores: Tensor, *, top_p: Tensor, top_k: Tensor) -> Tensor:
    """The scores [rows, vocabulary] with -inf where a token may not be drawn: outside top_k, then outside top_p.

    Both are [rows, 1]; a top_k of 0 means all. The most probable token always stays.
    """
    best, tokens = scores.sort(dim=-1, descending=True)
    rank = torch.arange(scores.shape[1], device=scores.device)
    best = best.masked_fill((top_k > 0) & (rank >= top_k), -torch.inf)
    probabilities = best.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    best = best.masked_fill((before >= top_p) & (rank > 0), -torch.inf)
    return torch.empty_like(scores).scatter_(-1, tokens, best)


def gumbel(seed: Tensor, position: Tensor, *, vocabulary: int) -> Tensor:
    """Gumbel noise float32 [rows, vocabulary] of int64 seeds and positions [rows, 1]."""
    stream = _mixed(_mixed(seed) + position * _signed(GOLDEN))
    tokens = torch.arange(1, vocabulary + 1, device=seed.device)
    bits = _shifted(_mixed(stream + tokens * _signed(GOLDEN)), 64 - BITS)
    share = (bits.float() + 0.5) / 2**BITS
    return -(-torch.log1p(-share)).log()


def _mixed(state: Tensor) -> Tensor:
    """The output function of splitmix64 on int64, which wraps."""
    for shift, factor in MIX:
        state = (state ^ _shifted(state, shift)) * _signed(factor)
    return state ^ _shifted(state, 31)


def _shifted(state: Tensor, bits: int) -> Tensor:
    """To the right, with zeros from the left: torch's own shift keeps the sign."""
    shifted: Tensor = state >> bits & (2 ** (64 - bits) - 1)
    return shifted


def _signed(number: int) -> int:
    return number - 2**64 if number >= 2**63 else number
