"""The tensors of the cache: what is copied is there whole, also where both places overlap."""

from typing import TYPE_CHECKING

import pytest
import torch

from workers.engine.cache import TokenCache

if TYPE_CHECKING:
    from torch import Tensor

TOKENS = 64


def cache_of(numbers: "Tensor") -> TokenCache:
    """Two layers whose keys are these numbers, and their values the same and a half."""
    cache = TokenCache(layers=2, tokens=TOKENS)
    states = numbers.view(1, 1, TOKENS, 1).float().expand(1, 3, TOKENS, 2)
    cache.places = torch.arange(TOKENS)
    for layer in cache.layers:
        layer.update(states, states + 0.5)
    return cache


@pytest.mark.parametrize(
    ("start", "to", "tokens"),
    [(0, 40, 20), (40, 0, 20), (0, 7, 40), (20, 3, 40), (0, 1, 63), (1, 0, 63), (5, 5, 20), (10, 12, 0)],
)
def test_tokens_are_copied_whole_in_all_layers(start: int, to: int, tokens: int) -> None:
    numbers = torch.arange(TOKENS)
    expected = numbers.clone()
    expected[to : to + tokens] = numbers[start : start + tokens]
    cache = cache_of(numbers)

    cache.copy(start, to, tokens)

    for layer in cache.layers:
        assert layer.keys[:, 0, 0].tolist() == expected.tolist()
        assert layer.values[:, 2, 1].tolist() == [number + 0.5 for number in expected.tolist()]
