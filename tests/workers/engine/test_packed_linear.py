"""Packed weights compute what the layer computes that they were made of."""

import pytest
import torch
from torch import nn

from workers.engine.packed_linear import PackedLinear, can_pack

KINDS = [torch.float32, torch.bfloat16]


class Holder(nn.Module):
    """What `can_pack` looks at of a model."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype, self.device = dtype, torch.device("cpu")


@pytest.mark.parametrize("rows", [(1, 1), (1, 7), (3,), (1, 300)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", KINDS)
@torch.inference_mode()
def test_a_packed_layer_answers_as_the_plain_one(dtype: torch.dtype, bias: bool, rows: tuple[int, ...]) -> None:
    if not can_pack(Holder(dtype)):
        pytest.skip(f"this CPU has no order of its own for {dtype}")
    torch.manual_seed(1)
    plain = nn.Linear(96, 160, bias=bias, dtype=dtype)
    states = torch.randn(*rows, 96, dtype=dtype)

    found, expected = PackedLinear(plain)(states), plain(states)

    assert found.shape == expected.shape
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected)


def test_numbers_without_an_order_are_left_as_they_are() -> None:
    assert not can_pack(Holder(torch.float16))
    assert not can_pack(Holder(torch.float64))
