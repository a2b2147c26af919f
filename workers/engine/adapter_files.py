"""The folder that PEFT writes for a LoRA adapter -> its matrices. What would be computed wrongly is refused here.

Both files are read whole, up to a limit, before anything is made of them: a file that changes meanwhile harms nobody.
Pickles are never read.
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from torch import Tensor

from app.errors import BadAdapter
from workers.engine.adapter_rules import MOST_RANK

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
CONFIG_BYTES: Final = 1 << 20
MOST_ALPHA: Final = 1e6
_KEY: Final = re.compile(r"base_model\.model\.(?P<path>.+)\.lora_(?P<side>[AB])\.weight")
_FLOATS: Final = (torch.float32, torch.float16, torch.bfloat16)

_READ: Final = {"r", "lora_alpha", "use_rslora", "target_modules", "layers_to_transform", "exclude_modules"}
# What these say has no part in computing an answer.
_NO_MATTER: Final = {
    "arrow_config",
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "eva_config",
    "inference_mode",
    "layers_pattern",
    "lora_dropout",
    "lora_ga_config",
    "loftq_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
}
# Ways to begin that change the model's own weights (pissa, olora, corda, loftq ...) are not among these.
_ALLOWED: Final[dict[str, tuple[Any, ...]]] = {
    "peft_type": ("LORA",),
    "task_type": (None, "CAUSAL_LM"),
    "bias": ("none",),
    "init_lora_weights": (True, False, None, "gaussian", "orthogonal", "eva"),
}


@dataclass(frozen=True, slots=True)
class AdapterFile:
    """An adapter as it was saved: to the output of a module on x it adds `scale * (x @ A.T) @ B.T`."""

    scale: float
    targets: tuple[str, ...]  # ends of the paths of modules, of which all must be there; empty: not known
    pairs: dict[str, tuple[Tensor, Tensor]]  # path of a module -> A [rank, in], B [out, rank]


def read_adapter(folder: Path, *, most_bytes: int) -> AdapterFile:
    """Read and check the two files. `most_bytes`: of the weights' file.

    Raises:
        BadAdapter: they cannot be read, or ask for something that is not run.
    """
    config = _read_config(folder)
    _check_config(config)
    rank, scale = _rank_and_scale(config)
    pairs = _read_pairs(folder, rank, most_bytes)
    names = config.get("target_modules")
    targets = tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()
    _check_targets(targets, pairs)
    chosen = config.get("layers_to_transform") is not None or config.get("exclude_modules")
    return AdapterFile(scale, () if chosen else targets, pairs)


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads(_read_file(folder / CONFIG, CONFIG_BYTES))
    except (ValueError, RecursionError) as exc:
        raise BadAdapter(f"{CONFIG}: is no JSON") from exc
    if not isinstance(config, dict):
        raise BadAdapter(f"{CONFIG}: is no object")
    return config


def _check_config(config: dict[str, Any]) -> None:
    """Raise BadAdapter for everything that changes what is computed and is not run, also if it is newer than this."""
    if "peft_type" not in config:
        raise BadAdapter(f"{CONFIG}: has no peft_type; must be what PEFT writes")
    for name, value in config.items():
        if name in _READ or name in _NO_MATTER:
            continue
        good = value in _ALLOWED[name] if name in _ALLOWED else not value
        if not good:
            raise BadAdapter(f"{CONFIG}: {_short(name)} = {_short(value)} is not run")


def _rank_and_scale(config: dict[str, Any]) -> tuple[int, float]:
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= MOST_RANK:
        raise BadAdapter(f"{CONFIG}: r = {_short(rank)}, must be 1 to {MOST_RANK}")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not abs(alpha) < MOST_ALPHA:
        raise BadAdapter(f"{CONFIG}: lora_alpha = {_short(alpha)}, must be a number")
    return rank, float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _read_pairs(folder: Path, rank: int, most_bytes: int) -> dict[str, tuple[Tensor, Tensor]]:
    sides: dict[str, dict[str, Tensor]] = {}
    for key, tensor in _read_weights(folder, most_bytes).items():
        found = _KEY.fullmatch(key)
        if found is None:
            raise BadAdapter(f"{WEIGHTS}: {_short(key)} is not run")
        if tensor.dtype not in _FLOATS:
            raise BadAdapter(f"{WEIGHTS}: {_short(key)} is {tensor.dtype}, must be float32, float16 or bfloat16")
        if tensor.ndim != 2 or tensor.shape[found["side"] == "B"] != rank:
            raise BadAdapter(f"{WEIGHTS}: {_short(key)} has shape {list(tensor.shape)}, which is not of rank {rank}")
        sides.setdefault(found["path"], {})[found["side"]] = tensor
    if not sides:
        raise BadAdapter(f"{WEIGHTS}: is empty")
    for path, pair in sides.items():
        if len(pair) < 2:
            raise BadAdapter(f"{WEIGHTS}: {_short(path)} has lora_A or lora_B alone")
    return {path: (pair["A"], pair["B"]) for path, pair in sides.items()}


def _read_weights(folder: Path, most_bytes: int) -> dict[str, Tensor]:
    if not (folder / WEIGHTS).exists() and (folder / PICKLE).exists():
        raise BadAdapter(f"{PICKLE}: pickles can run code and are not read; save the adapter as {WEIGHTS}")
    try:
        return read_tensors(_read_file(folder / WEIGHTS, most_bytes))
    except (SafetensorError, KeyError, ValueError, RuntimeError) as exc:  # KeyError: of a type of number
        raise BadAdapter(f"{WEIGHTS}: is broken, or of numbers that are not read: {_short(exc)}") from exc


def _read_file(path: Path, most_bytes: int) -> bytes:
    try:
        if not path.is_file():  # a pipe would be waited for
            raise BadAdapter(f"there is no file {path.name}")
        with path.open("rb") as file:
            data = file.read(most_bytes + 1)
    except OSError as exc:
        raise BadAdapter(f"{path.name}: cannot be read: {exc.strerror}") from exc
    if len(data) > most_bytes:
        raise BadAdapter(f"{path.name}: is larger than {most_bytes} bytes")
    return data


def _check_targets(targets: tuple[str, ...], pairs: dict[str, Any]) -> None:
    """Raise BadAdapter if a target has no weights at all, or weights belong to no target."""
    for target in targets:
        if not any(is_target(path, target) for path in pairs):
            raise BadAdapter(f"{WEIGHTS}: has nothing for the target module {_short(target)}")
    for path in pairs:
        if targets and not any(is_target(path, target) for target in targets):
            raise BadAdapter(f"{WEIGHTS}: {_short(path)} is no target module of {CONFIG}")


def is_target(path: str, target: str) -> bool:
    """Whether PEFT counts the module of this path to a target."""
    return path == target or path.endswith(f".{target}")


def _short(value: object) -> str:
    """For a sentence: what a file says may be long."""
    text = str(value)
    return text if len(text) <= 100 else text[:100] + "…"
