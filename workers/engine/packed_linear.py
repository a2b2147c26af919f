"""Linear layers whose weights are kept in the order in which a CPU multiplies them: MKL's for float32, oneDNN's for
bfloat16.

Both reorder a weight before each product otherwise, which costs a third of the time of a small batch.
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
        self._in_float32 = weight.dtype == torch.float32
        reorder = (
            torch.ops.mkl._mkl_reorder_linear_weight if self._in_float32 else torch.ops.mkldnn._reorder_linear_weight
        )
        self._packed = reorder(weight, HINT_ROWS)
        # MKL's operator looks at the first weight's shape only, as long as it is told the number of rows that it gets.
        self._shape = weight.new_zeros(1).expand(weight.shape)

    def forward(self, states: Tensor) -> Tensor:
        """[..., in] -> [..., out]"""
        found: Tensor
        if self._in_float32:
            rows = states.numel() // self.in_features
            found = torch.ops.mkl._mkl_linear(states, self._packed, self._shape, self.bias, rows)
        else:
            found = torch.ops.mkldnn._linear_pointwise(states, self._packed, self.bias, "none", [], "")
        return found


def can_pack(model: Any) -> bool:
    """Whether packed weights are a gain: on a CPU, in numbers that this one and this torch have an order for."""
    if model.device.type != "cpu":
        return False
    if model.dtype == torch.bfloat16:
        return bool(torch._C._has_mkldnn and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return model.dtype == torch.float32 and torch._C.has_mkl


@torch.inference_mode()
def pack_linears(model: nn.Module) -> None:
    """Replace every plain linear layer in place; the modules' own weights are let go."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Linear:
                setattr(parent, name, PackedLinear(child))
