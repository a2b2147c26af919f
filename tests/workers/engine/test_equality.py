"""Whatever joins and leaves around it, a request gets the tokens that the model gives it alone."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from tests.workers.engine.asking import ask, first_piece
from tests.workers.engine.conftest import MakeSlots
from workers.engine.sequence import Sequence

if TYPE_CHECKING:
    from workers.engine.loading import Loaded

TIE = 1e-4  # two logits closer than this may change places by rounding alone

QUESTIONS = [
    ("What is the capital of France?", 12),
    ("Write one sentence about the sea, the moon and an old ship that never came home. " * 2, 24),
    ("Hi", 8),
    ("Translate to English: 北京是中国的首都。", 16),
    ("List three colours", 20),
    ("Why is the sky blue? " + "Explain it to a child who has never seen the sea. " * 5, 10),
    ("2 + 2 =", 9),
    ("Name a planet with rings 🪐", 14),
]


@dataclass
class Reference:
    """What `generate()` makes of one prompt alone, with the gap between the two best logits of each token."""

    tokens: list[int]
    gaps: list[float]


def generate(loaded: "Loaded", prompt: list[int], max_new_tokens: int) -> Reference:
    output: Any = loaded.model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
    best = [logits[0].topk(2).values for logits in output.logits]
    return Reference(output.sequences[0][len(prompt) :].tolist(), [float(two[0] - two[1]) for two in best])


def ties(loaded: "Loaded", prompt: list[int], got: list[int], max_new_tokens: int) -> int:
    """How many ties went the other way; fails if there is any other difference."""
    reference = generate(loaded, prompt, max_new_tokens)
    if got == reference.tokens:
        return 0
    at = next(i for i, (mine, theirs) in enumerate(zip(got, reference.tokens, strict=False)) if mine != theirs)
    assert reference.gaps[at] < TIE, f"token {at} differs, and it was no tie"
    if at + 1 == max_new_tokens or got[at] in loaded.eos:
        return 1
    return 1 + ties(loaded, prompt + got[: at + 1], got[at + 1 :], max_new_tokens - at - 1)


def test_tokens_equal_one_by_one_generation_while_others_join_and_leave(
    loaded: "Loaded", make_slots: MakeSlots
) -> None:
    """Guards every change of cache, mask, positions and moves. Prompts are prefilled in chunks of 24 tokens."""
    engine = make_slots(slots=3, prefill_tokens=24)
    prompts = [loaded.prompts.encode((("user", question),)) for question, _ in QUESTIONS]

    def start(i: int) -> Sequence:
        return engine.start(prompts[i], ask("", max_new_tokens=QUESTIONS[i][1]))

    running = [start(0), start(1)]
    leaving = engine.start(prompts[5], ask("", max_new_tokens=50))
    first_piece(running[0].handle)
    running += [start(i) for i in range(2, len(QUESTIONS))]
    first_piece(leaving.handle)
    leaving.handle.cancel()

    results = [sequence.handle.result() for sequence in running]
    counted = sum(
        ties(loaded, prompt, sequence.new, limit)
        for prompt, sequence, (_, limit) in zip(prompts, running, QUESTIONS, strict=True)
    )

    assert leaving.handle.result().finish == "cancelled"
    assert [len(sequence.new) for sequence in running] == [result.new_tokens for result in results]
    assert counted <= 1, f"{counted} ties: more than chance"
