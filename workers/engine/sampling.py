"""Logits -> tokens, each request by its own parameters and its own seed."""

import torch
from torch import Tensor

from workers.engine.interface import Request
from workers.engine.sequence import Sequence

CANDIDATES = 256  # top_p first looks at so many: sorting a whole vocabulary for each token is slow on a CPU


@torch.inference_mode()
def pick(logits: Tensor, sequences: list[Sequence]) -> list[int | None]:
    """One token for each row of float32 logits [rows, vocabulary]; None where the logits are not finite."""
    best, tokens = logits.max(dim=-1)
    picked: list[int | None] = tokens.tolist()
    for i, good in enumerate(best.isfinite().tolist()):
        if not good:
            picked[i] = None
        elif sequences[i].request.temperature > 0:
            picked[i] = draw(logits[i], sequences[i].request, _dice(sequences[i], logits.device))
    return picked


def draw(logits: Tensor, request: Request, dice: torch.Generator) -> int:
    """One token from one row [vocabulary], by temperature, then top_k, then top_p."""
    probabilities, tokens = candidates(logits / request.temperature, top_p=request.top_p, top_k=request.top_k)
    # The largest of p / Exponential(1) is a draw by p; unlike multinomial it cannot raise on a GPU.
    noise = torch.empty_like(probabilities).exponential_(generator=dice)
    return int(tokens[(probabilities / noise).argmax()])


def candidates(scores: Tensor, *, top_p: float, top_k: int) -> tuple[Tensor, Tensor]:
    """The tokens that may be drawn from one row of scores [vocabulary].

    Returns:
        probabilities float [n], not always of sum 1, and token ids int64 [n]; most probable first if cut at all.
    """
    if not top_k and top_p >= 1:
        return scores.softmax(dim=-1), torch.arange(len(scores), device=scores.device)
    if top_k:
        best, tokens = scores.topk(min(top_k, len(scores)))
        return _nucleus(best.softmax(dim=-1), top_p), tokens
    best, tokens = scores.topk(min(CANDIDATES, len(scores)))
    probabilities = (best - scores.logsumexp(dim=-1)).exp()
    if probabilities.sum() < top_p:  # a flat distribution: here the whole vocabulary counts
        probabilities, tokens = scores.softmax(dim=-1).sort(descending=True)
    return _nucleus(probabilities, top_p), tokens


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Zero all behind those that together reach top_p; the first one always stays."""
    before = probabilities.cumsum(dim=-1) - probabilities
    return torch.where(before < top_p, probabilities, 0.0)


def _dice(sequence: Sequence, device: torch.device) -> torch.Generator:
    if sequence.dice is None:
        sequence.dice = torch.Generator(device=device)
        if sequence.request.seed is None:
            sequence.dice.seed()
        else:
            sequence.dice.manual_seed(sequence.request.seed)
    return sequence.dice
