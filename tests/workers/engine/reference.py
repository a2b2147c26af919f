"""What `generate()` makes of one prompt alone: the measure of every engine that batches.

Only while no engine computes on the same model: `generate()` beside a running manager gives other tokens.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from workers.engine.loading import Loaded

# Two logits closer than this may change places by rounding alone.
TIES = {torch.float32: 1e-4, torch.float16: 0.1}
MOST_TIES = {torch.float32: 1, torch.float16: 10}  # of a test's few hundred tokens; more are no chance


@dataclass
class Reference:
    """The tokens, with the gap between the two best logits of each."""

    tokens: list[int]
    gaps: list[float]


def generate(loaded: "Loaded", prompt: list[int], max_new_tokens: int) -> Reference:
    where = loaded.model.device
    output: Any = loaded.model.generate(
        torch.tensor([prompt], device=where),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64, device=where),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=sorted(loaded.eos) or None,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    best = [logits[0].float().topk(2).values for logits in output.logits]
    return Reference(output.sequences[0][len(prompt) :].tolist(), [float(two[0] - two[1]) for two in best])


def ties(loaded: "Loaded", prompt: list[int], got: list[int], max_new_tokens: int) -> int:
    """How many ties went the other way; fails if there is any other difference."""
    reference = generate(loaded, prompt, max_new_tokens)
    if got == reference.tokens:
        return 0
    at = next(i for i, (mine, theirs) in enumerate(zip(got, reference.tokens, strict=False)) if mine != theirs)
    assert reference.gaps[at] < TIES[loaded.model.dtype], (
        f"token {at} differs, and it was no tie: {got[:5]}, not {reference.tokens[:5]}"
    )
    if at + 1 == max_new_tokens or got[at] in loaded.eos:
        return 1
    return 1 + ties(loaded, prompt + got[: at + 1], got[at + 1 :], max_new_tokens - at - 1)
