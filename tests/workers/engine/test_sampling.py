"""Which tokens may be drawn, and how often."""

import pytest
import torch

from tests.workers.engine.asking import ask
from workers.engine.sampling import candidates, draw

SCORES = torch.tensor([0.1, 0.4, 0.2, 0.3]).log()


def allowed(scores: torch.Tensor, *, top_p: float = 1.0, top_k: int = 0) -> set[int]:
    probabilities, tokens = candidates(scores, top_p=top_p, top_k=top_k)
    return set(tokens[probabilities > 0].tolist())


@pytest.mark.parametrize(
    ("top_p", "top_k", "expected"),
    [(1.0, 0, {0, 1, 2, 3}), (1.0, 2, {1, 3}), (0.6, 0, {1, 3}), (0.01, 0, {1}), (0.9, 3, {1, 2, 3}), (0.5, 2, {1})],
)
def test_top_k_then_top_p_choose_the_candidates(top_p: float, top_k: int, expected: set[int]) -> None:
    assert allowed(SCORES, top_p=top_p, top_k=top_k) == expected


def test_a_flat_distribution_is_not_cut_at_the_first_candidates() -> None:
    """The quick look at the best few must not change what top_p means."""
    assert len(allowed(torch.zeros(4000), top_p=0.5)) in range(1999, 2003)


def test_tokens_come_as_often_as_their_probability_says() -> None:
    dice = torch.Generator().manual_seed(1)
    request = ask("", temperature=1.0)

    drawn = torch.tensor([draw(SCORES, request, dice) for _ in range(4000)])

    shares = torch.bincount(drawn, minlength=4) / 4000
    assert torch.allclose(shares, SCORES.exp(), atol=0.04)


def test_a_low_temperature_takes_the_best() -> None:
    dice = torch.Generator().manual_seed(1)

    assert {draw(SCORES, ask("", temperature=0.01), dice) for _ in range(50)} == {1}
