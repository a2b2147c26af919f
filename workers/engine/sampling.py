"""Logits -> tokens, each request by its own parameters and its own seed.

Rows that ask for nothing are picked by one argmax over all. The others are worked on together: what they ask for is a
column of numbers, one for each of them. A row's draw is one throw of its own dice, so neighbours change nothing.
"""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from workers.engine import processors
from workers.engine.interface import Request
from workers.engine.sequence import Sequence

log = logging.getLogger(__name__)

CANDIDATES = 256  # top_p first looks at so many: sorting a whole vocabulary for each token is slow on a CPU
NEVER = float("-inf")

Rows = list[Sequence]


@torch.inference_mode()
def pick(logits: Tensor, sequences: Rows, eos: frozenset[int] = frozenset()) -> list[int | None]:
    """One token for each row of float32 logits [rows, vocabulary]; None where there is none.

    That is where the logits are not finite, or a logit processor failed.

    `eos`: tokens that may not come before a request's least number of tokens. Rows that are altered are copies.
    """
    best, tokens = logits.max(dim=-1)
    picked: list[int | None] = tokens.tolist()
    good = best.isfinite().tolist()
    special = [i for i, sequence in enumerate(sequences) if good[i] and not _plain(sequence)]
    if special:
        chosen = _pick_special(logits[special], [sequences[i] for i in special], eos)
        for i, token in zip(special, chosen, strict=True):
            picked[i] = token
    return [token if finite else None for token, finite in zip(picked, good, strict=True)]


def _plain(sequence: Sequence) -> bool:
    """Whether the best token is the answer."""
    request = sequence.request
    return not (
        request.temperature > 0
        or request.repetition_penalty != 1
        or request.processors
        or len(sequence.new) < request.min_new_tokens
    )


def _pick_special(logits: Tensor, rows: Rows, eos: frozenset[int]) -> list[int | None]:
    """Tokens of rows [n, vocabulary], which are changed in place: penalty, least length, processors, then the draw."""
    _penalise(logits, rows)
    _forbid_early_end(logits, rows, eos)
    failed = {i for i, row in enumerate(rows) if row.request.processors and not _process(logits[i], row)}
    best, places = logits.max(dim=-1)
    failed |= {i for i, finite in enumerate(best.isfinite().tolist()) if not finite}
    tokens: list[int | None] = places.tolist()
    drawing = [i for i, row in enumerate(rows) if row.request.temperature > 0]
    if drawing:
        drawn = draw(logits[drawing], [rows[i].request for i in drawing], [rows[i].throw() for i in drawing])
        for i, token in zip(drawing, drawn, strict=True):
            tokens[i] = token
    return [None if i in failed else token for i, token in enumerate(tokens)]


def _process(logits: Tensor, row: Sequence) -> bool:
    """Change one row [vocabulary] in place by what its request names. False if that fails: it fails alone."""
    try:
        logits.copy_(processors.apply(row.request.processors, row.prompt, row.new, logits))
    except Exception:
        log.exception("logit processor failed")
        return False
    return True


def _penalise(logits: Tensor, rows: Rows) -> None:
    """Make tokens of the prompt and the answer less likely: positive logits are divided, negative ones multiplied."""
    penalised = [i for i, row in enumerate(rows) if row.request.repetition_penalty != 1]
    if not penalised:
        return
    seen = [rows[i].prompt + rows[i].new for i in penalised]
    longest = max(map(len, seen))
    padded = [tokens + tokens[:1] * (longest - len(tokens)) for tokens in seen]  # twice the same is once the same
    tokens, at = torch.tensor(padded, device=logits.device), torch.tensor(penalised, device=logits.device)[:, None]
    penalty = _column([rows[i].request for i in penalised], lambda request: request.repetition_penalty, logits)
    old = logits[at, tokens]
    logits[at, tokens] = torch.where(old > 0, old / penalty, old * penalty)


def _forbid_early_end(logits: Tensor, rows: Rows, eos: frozenset[int]) -> None:
    early = [i for i, row in enumerate(rows) if len(row.new) < row.request.min_new_tokens]
    if early and eos:
        at = torch.tensor(early, device=logits.device)[:, None]
        logits[at, torch.tensor(sorted(eos), device=logits.device)] = NEVER


def draw(logits: Tensor, requests: list[Request], dice: list[float]) -> list[int]:
    """One token for each row [n, vocabulary], by temperature, then top_k, then top_p; `dice`: a number in [0, 1) each.

    How a row is drawn depends on the row alone: it is worked on together with those that are drawn in the same way.
    """
    below = logits - logits.max(dim=-1, keepdim=True).values  # what is divided stays finite
    scores = below / _column(requests, lambda request: request.temperature, logits)
    uncut = [i for i, request in enumerate(requests) if not request.top_k and request.top_p >= 1]
    cut = [i for i in range(len(requests)) if i not in set(uncut)]
    found = dict(zip(uncut, _draw_uncut(scores[uncut], [dice[i] for i in uncut]), strict=True))
    found |= _draw_cut(scores, requests, dice, cut)
    return [found[i] for i in range(len(requests))]


def _draw_uncut(scores: Tensor, dice: list[float]) -> list[int]:
    """Any token of the vocabulary."""
    return _at(scores.softmax(dim=-1), dice)[:, 0].tolist() if dice else []


def _draw_cut(scores: Tensor, requests: list[Request], dice: list[float], rows: list[int]) -> dict[int, int]:
    """Tokens by row, among the first candidates; where these do not do, the whole vocabulary is sorted."""
    found: dict[int, int] = {}
    for most in (CANDIDATES, scores.shape[1]):
        if not rows:
            break
        asked, total = [requests[i] for i in rows], scores[rows].logsumexp(dim=-1)
        best, tokens = scores[rows].topk(min(most, scores.shape[1]))
        drawn = tokens.gather(1, _at(candidates(best, total, asked), [dice[i] for i in rows]))[:, 0].tolist()
        reached = (best.logsumexp(dim=-1) - total).exp().tolist()
        for i, token, share in zip(rows, drawn, reached, strict=True):
            wants = requests[i]
            if 0 < wants.top_k <= most or (not wants.top_k and share >= wants.top_p) or most == scores.shape[1]:
                found[i] = token
        rows = [i for i in rows if i not in found]
    return found


def _at(probabilities: Tensor, dice: list[float]) -> Tensor:
    """Where the dice fall: int64 [n, 1], the first place at which the sum of probabilities is above them."""
    reached = probabilities.cumsum(dim=-1)
    total = reached[:, -1:]
    aim = torch.tensor(dice, device=total.device, dtype=total.dtype)[:, None] * total
    below = total.nextafter(torch.zeros_like(total))  # rounding may put the aim on the last sum itself
    return (reached <= aim.minimum(below)).sum(dim=-1, keepdim=True)


def candidates(best: Tensor, total: Tensor, requests: list[Request]) -> Tensor:
    """Probabilities of candidates, zero for those that may not be drawn.

    `best`: scores [n, candidates], the best first; `total` [n]: the logarithm of the sum over the whole vocabulary.
    With top_k the probabilities are those among the k best, so that top_p is a share of them.
    """
    rank = torch.arange(best.shape[1], device=best.device)
    most = _column(requests, lambda request: request.top_k or best.shape[1], best)
    kept = best.masked_fill(rank >= most, NEVER)
    has_k = torch.tensor([bool(request.top_k) for request in requests], device=best.device)
    probabilities = (kept - torch.where(has_k, kept.logsumexp(dim=-1), total)[:, None]).exp()
    before = probabilities.cumsum(dim=-1) - probabilities
    share = _column(requests, lambda request: request.top_p, best)
    # The first always stays; 1 means all, whatever the sum is rounded to.
    return torch.where((before < share) | (share >= 1) | (rank == 0), probabilities, 0.0)


def _column(requests: list[Request], value: Callable[[Request], float], like: Tensor) -> Tensor:
    """A parameter of each request, as float [n, 1]."""
    return torch.tensor([float(value(request)) for request in requests], device=like.device)[:, None]
