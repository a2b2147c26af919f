"""Noise makes a draw out of an argmax: by the right probabilities, of the candidates alone, the same each time."""

import itertools
import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from workers.engine.draws import candidates, gumbel

SCORES = torch.tensor([[2.0, 1.0, 0.0, 1.5, -1.0]])
SAME = 20_000  # draws of one row


def column(number: float) -> Tensor:
    return torch.tensor([[number]])


def draw(scores: Tensor, *, seed: int, times: int) -> list[int]:
    """As many draws from one row [1, vocabulary], each at a position of its own."""
    seeds, positions = torch.full((times, 1), seed), torch.arange(times)[:, None]
    noise = gumbel(seeds, positions, vocabulary=scores.shape[1])
    chosen: list[int] = (scores + noise).argmax(dim=-1).tolist()
    return chosen


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**62 + 12345])
def test_tokens_are_drawn_by_their_probabilities(seed: int) -> None:
    counted = Counter(draw(SCORES, seed=seed, times=SAME))

    for token, share in enumerate(SCORES[0].softmax(dim=-1).tolist()):
        spread = math.sqrt(SAME * share * (1 - share))
        assert abs(counted[token] - SAME * share) < 4 * spread


def test_neighbours_in_seed_and_position_draw_independently() -> None:
    """Else two people who ask the same would read the same, one token later."""
    even = torch.zeros(1, 1000)
    first, second = draw(even, seed=7, times=2000), draw(even, seed=8, times=2000)

    assert sum(a == b for a, b in zip(first, second, strict=True)) < 15  # 2 are expected
    assert sum(a == b for a, b in zip(first[1:], second, strict=False)) < 15
    assert sum(a == b for a, b in itertools.pairwise(first)) < 15


def test_the_noise_is_a_function_of_seed_position_and_token_alone() -> None:
    """Not of the row nor of who else is in the batch."""
    seeds, positions = torch.tensor([[5], [6], [5]]), torch.tensor([[1], [1], [9]])

    together = gumbel(seeds, positions, vocabulary=300)

    for row in range(3):
        alone = gumbel(seeds[row : row + 1], positions[row : row + 1], vocabulary=300)
        assert torch.equal(together[row : row + 1], alone)
    assert torch.equal(gumbel(seeds, positions, vocabulary=200), together[:, :200])
    assert together.isfinite().all()


@pytest.mark.parametrize(
    ("top_k", "top_p", "left"),
    [
        (0, 1.0, {0, 1, 2, 3, 4}),
        (2, 1.0, {0, 3}),
        (99, 1.0, {0, 1, 2, 3, 4}),
        (0, 0.5, {0, 3}),  # 0.46 and 0.28: the second one reaches it
        (0, 0.4, {0}),
        (0, 1e-9, {0}),
        (2, 0.99, {0, 3}),  # of those two alone: 0.62 and 0.38
        (3, 0.5, {0}),  # of those three alone: 0.51
    ],
)
def test_the_candidates_are_the_best_k_and_of_these_the_nucleus(top_k: int, top_p: float, left: set[int]) -> None:
    kept = candidates(SCORES, top_p=column(top_p), top_k=column(top_k).long())

    assert {i for i, score in enumerate(kept[0].tolist()) if score > -math.inf} == left
    assert all(kept[0, i] == SCORES[0, i] for i in left)


def test_each_row_has_its_own_candidates() -> None:
    scores = SCORES.repeat(2, 1)

    kept = candidates(scores, top_p=torch.tensor([[1.0], [0.4]]), top_k=torch.tensor([[3], [0]]))

    assert kept.isfinite().sum(dim=-1).tolist() == [3, 1]
