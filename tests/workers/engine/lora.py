"""Random LoRA adapters, saved as PEFT saves them, and the models that they make when they are merged for good."""

import copy
import dataclasses
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

if TYPE_CHECKING:
    from workers.engine.loading import Loaded

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# What PEFT 0.17 writes besides, for an adapter with nothing special about it.
DEFAULTS: dict[str, Any] = {
    "alpha_pattern": {},
    "auto_mapping": None,
    "base_model_name_or_path": "somebody/some-model",
    "bias": "none",
    "corda_config": None,
    "eva_config": None,
    "exclude_modules": None,
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "layer_replication": None,
    "layers_pattern": None,
    "layers_to_transform": None,
    "loftq_config": {},
    "lora_bias": False,
    "lora_dropout": 0.05,
    "megatron_config": None,
    "megatron_core": "megatron.core",
    "modules_to_save": None,
    "peft_type": "LORA",
    "qalora_group_size": 16,
    "rank_pattern": {},
    "revision": None,
    "target_parameters": None,
    "task_type": "CAUSAL_LM",
    "trainable_token_indices": None,
    "use_dora": False,
    "use_qalora": False,
    "use_rslora": False,
}


@dataclasses.dataclass(frozen=True)
class Lora:
    """An adapter for a model: A and B by the path of the module."""

    config: dict[str, Any]
    pairs: dict[str, tuple[Tensor, Tensor]]

    def save(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "adapter_config.json").write_text(json.dumps(self.config))
        save_file(self.tensors(), folder / "adapter_model.safetensors", {"format": "pt"})
        return folder

    def tensors(self) -> dict[str, Tensor]:
        """By the names that PEFT gives them."""
        named = {f"base_model.model.{path}.lora_A.weight": pair[0] for path, pair in self.pairs.items()}
        return named | {f"base_model.model.{path}.lora_B.weight": pair[1] for path, pair in self.pairs.items()}

    def merged(self, loaded: "Loaded") -> "Loaded":
        """A copy of the model with the adapter in its weights."""
        model = copy.deepcopy(loaded.model)
        rank, alpha = self.config["r"], self.config["lora_alpha"]
        scale = alpha / (math.sqrt(rank) if self.config["use_rslora"] else rank)
        with torch.no_grad():
            for path, (down, up) in self.pairs.items():
                weight = model.get_submodule(path).weight
                weight += (scale * (up.double() @ down.double())).to(weight)
        return dataclasses.replace(loaded, model=model)


def a_lora(
    model: Any, seed: int = 0, *, targets: tuple[str, ...] = ALL, rank: int = 8, size: float = 0.1, **config: Any
) -> Lora:
    """Random, and as large as it takes to change most answers. `size`: of the numbers in A and B."""
    dice = torch.Generator().manual_seed(seed)
    pairs = {}
    for path, module in model.named_modules():
        if path.split(".")[-1] in targets:
            out_size, in_size = module.weight.shape
            pairs[path] = (
                torch.randn(rank, in_size, generator=dice) * size,
                torch.randn(out_size, rank, generator=dice) * size,
            )
    return Lora({**DEFAULTS, "r": rank, "lora_alpha": 16, "target_modules": list(targets), **config}, pairs)
