"""What LoRA adapters cost a step of the engine `slots`, beside the same step without any, on the demo model.

`python -m benchmarks.adapters` lets 16 requests write at the same time, with one thread; some or all of them name
adapters of rank 8 at every linear layer. A step's seconds are those of the CPU of this process. Contenders take turns
step by step, on caches of their own; the median of the steps counts.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.figures import Figure, Reach, arguments_for, median, say, show
from benchmarks.stepping import demo_model, stepping

if TYPE_CHECKING:
    from workers.engine.loading import Loaded

MODELS = Path(".switchyard") / "models"
ROWS, STEPS, RANK = 16, 60, 8
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
NAMES = ("one", "two", "three")
PLAIN = "no adapter is loaded"
# The adapter of each row, in turns.
CONTENDERS: dict[str, tuple[str | None, ...]] = {
    "three are loaded, nobody names one": (None,),
    "all name the same": ("one",),
    "a third names one of three": ("one", None, None, "two", None, None, "three", None, None),
    "all name one of three": NAMES,
}
NOTHING = Reach("<", 1.02)


def main() -> None:
    arguments = read_arguments()
    show(measure(demo_model(arguments.dtype), arguments.steps), arguments)


def read_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = arguments_for(__doc__)
    parser.add_argument("--steps", type=int, default=STEPS, help="of each contender")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    return parser.parse_args(given)


def measure(loaded: "Loaded", steps: int) -> list[Figure]:
    """CPU milliseconds of a step without adapters, and the others as multiples of it."""
    from workers.engine.adapters import Adapters
    from workers.engine.serving import serve, trial

    served = serve(loaded.model)
    adapters = Adapters(served, trial)
    with tempfile.TemporaryDirectory() as folder:
        for name in NAMES:
            adapters.load(name, saved(loaded, Path(folder) / name))
    all_of_them = {PLAIN: stepping(served, ROWS)}
    all_of_them |= {name: stepping(served, ROWS, adapters, named) for name, named in CONTENDERS.items()}
    for number in range(steps):
        if number % 10 == 0:
            say(f"step {number} of {steps}")
        for one in all_of_them.values():
            one.step()
    return figures({name: median(one.took_s) for name, one in all_of_them.items()})


def figures(took_s: dict[str, float]) -> list[Figure]:
    found = [Figure(f"{PLAIN}: a step of {ROWS} requests", took_s[PLAIN] * 1000, "ms of CPU")]
    for name in CONTENDERS:
        found.append(Figure(name, took_s[name] / took_s[PLAIN], "x", NOTHING if "nobody" in name else None))
    return found


def saved(loaded: "Loaded", folder: Path) -> Path:
    """An adapter as PEFT writes it, of numbers that change little."""
    import torch
    from safetensors.torch import save_file

    tensors = {}
    for path, module in loaded.model.named_modules():
        if path.split(".")[-1] in TARGETS:
            out_size, in_size = module.weight.shape
            tensors[f"base_model.model.{path}.lora_A.weight"] = torch.randn(RANK, in_size) * 0.01
            tensors[f"base_model.model.{path}.lora_B.weight"] = torch.randn(out_size, RANK) * 0.01
    folder.mkdir()
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "target_modules": list(TARGETS), "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


if __name__ == "__main__":
    main()
