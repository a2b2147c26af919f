"""What `generate()` makes of a prompt by itself, and whether an answer is that: ties are counted, not hidden."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from workers.engine.loading import Loaded

TIE = 1e-4  # two logits closer than this may change places by rounding alone


@dataclass
class Reference:
    """The tokens of `generate()`, with the gap between the two best logits of each."""

    tokens: list[int]
    gaps: list[float]


def generate(loaded: "Loaded", prompt: list[int], max_new_tokens: int) -> Reference:
    output: Any = loaded.model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=sorted(loaded.eos) or None,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    best = [logits[0].topk(2).values for logits in output.logits]
    return Reference(output.sequences[0][len(prompt) :].tolist(), [float(two[0] - two[1]) for two in best])


@dataclass
class Judge:
    """Compares answers with one-by-one generation; a prompt is generated once, up to `longest` tokens."""

    loaded: "Loaded"
    longest: int
    tokens: int = 0  # compared
    ties: int = 0  # that went the other way
    _known: dict[tuple[int, ...], Reference] = field(default_factory=dict)

    def check(self, prompt: list[int], got: list[int]) -> None:
        """Fail if the answer, or what there is of it, differs in more than ties."""
        self.tokens += len(got)
        while got:
            reference = self._reference(prompt)
            assert len(got) <= len(reference.tokens), "the answer goes on behind its end"
            at = next((i for i, token in enumerate(got) if token != reference.tokens[i]), None)
            if at is None:
                return
            assert reference.gaps[at] < TIE, f"token {at} differs, and it was no tie"
            self.ties += 1
            prompt, got = prompt + got[: at + 1], got[at + 1 :]

    def _reference(self, prompt: list[int]) -> Reference:
        key = tuple(prompt)
        if key not in self._known:
            self._known[key] = generate(self.loaded, prompt, self.longest)
        return self._known[key]
