"""Linear layers whose weights are kept in the order in which MKL multiplies them: float32 on a CPU.

MKL reorders a weight before each product otherwise, which costs a third of the time of a small batch.
"""

from typing import Any

import torch
from torch import Tensor, nn

HINT_ROWS = 256  # packed for so many rows; the order is as good, or within a tenth, for one row to thousands


class PackedLinear(nn.Module):
    """Computes what the layer computes that it was made of, and holds the packed weight alone."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach()
        self.bias = linear.bias
        self._packed = torch.ops.mkl._mkl_reorder_linear_weight(weight, HINT_ROWS)
        # The operator looks at the first weight's shape only, as long as it is told the number of rows that it gets.
        self._shape = weight.new_zeros(1).expand(weight.shape)

    def forward(self, states: Tensor) -> Tensor:
        """[..., in] -> [..., out]"""
        rows = states.numel() // self.in_features
        found: Tensor = torch.ops.mkl._mkl_linear(states, self._packed, self._shape, self.bias, rows)
        return found


def can_pack(model: Any) -> bool:
    """Whether packed weights are a gain: float32 on a CPU, and torch has MKL."""
    return model.device.type == "cpu" and model.dtype == torch.float32 and torch._C.has_mkl


@torch.inference_mode()
def pack_linears(model: nn.Module) -> None:
    """Replace every plain linear layer in place; the modules' own weights are let go."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Linear:
                setattr(parent, name, PackedLinear(child))
