"""What LoRA adapters cost a step of the engine `slots`, beside the same step without any, on the demo model.

`python -m benchmarks.adapters` lets 16 requests write at the same time, with one thread; some or all of them name
adapters of rank 8 at every linear layer. A step's seconds are those of the CPU of this process. Contenders take turns
step by step, on caches of their own; the median of the steps counts.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.figures import Figure, Reach, arguments_for, median, say, show
from workers.engine.demo_model import prepare_demo_model
from workers.engine.interface import Handle, Request
from workers.engine.sequence import Answer
from workers.engine.sequence import Sequence as Asked

if TYPE_CHECKING:
    from workers.engine.adapters import Adapters
    from workers.engine.loading import Loaded

MODELS = Path(".switchyard") / "models"
ROWS, PROMPT_TOKENS, STEPS, RANK = 16, 16, 60, 8
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


@dataclass
class Contender:
    """Requests that write, a token a step."""

    runner: Any
    scheduler: Any
    took_s: list[float]

    def step(self) -> None:
        began_s = time.process_time()
        plan = self.scheduler.plan()
        self.runner.run(plan)
        for row in plan.rows:
            row.sequence.new.append(1)
        if len(plan.rows) == ROWS:
            self.took_s.append(time.process_time() - began_s)


def main() -> None:
    arguments = read_arguments()
    show(measure(demo_model(arguments.dtype), arguments.steps), arguments)


def read_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = arguments_for(__doc__)
    parser.add_argument("--steps", type=int, default=STEPS, help="of each contender")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    return parser.parse_args(given)


def demo_model(dtype: str) -> "Loaded":
    import torch

    from workers.engine.loading import load_model

    torch.set_num_threads(1)
    return load_model(str(prepare_demo_model(MODELS)), device="cpu", dtype=dtype)


def measure(loaded: "Loaded", steps: int) -> list[Figure]:
    """CPU milliseconds of a step without adapters, and the others as multiples of it."""
    from workers.engine.adapters import Adapters
    from workers.engine.serving import serve, trial

    adapters = Adapters(serve(loaded.model), trial)
    with tempfile.TemporaryDirectory() as folder:
        for name in NAMES:
            adapters.load(name, saved(loaded, Path(folder) / name))
    all_of_them = {PLAIN: contender(loaded, None, (None,))}
    all_of_them |= {name: contender(loaded, adapters, named) for name, named in CONTENDERS.items()}
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


def contender(loaded: "Loaded", adapters: "Adapters | None", named: tuple[str | None, ...]) -> Contender:
    """ROWS requests whose prompts are in the cache after the first step."""
    from workers.engine.runner import Runner
    from workers.engine.scheduler import Scheduler
    from workers.engine.serving import serve

    tokens = ROWS * 512
    scheduler = Scheduler(slots=ROWS, prefill_tokens=ROWS * PROMPT_TOKENS, cache_tokens=tokens)
    for row in range(ROWS):
        sequence = asked(named[row % len(named)])
        if adapters is not None:
            adapters.lend(sequence)
        scheduler.add(sequence, now_s=0.0)
    runner = Runner(serve(loaded.model), cache_tokens=tokens, step_tokens=ROWS * (PROMPT_TOKENS + 1))
    made = Contender(runner, scheduler, [])
    made.step()
    made.took_s.clear()
    return made


def asked(adapter: str | None) -> Asked:
    request = Request(messages=(), max_new_tokens=300, adapter=adapter)
    answer = Answer(lambda _: "", ())
    prompt = list(range(1, 1 + PROMPT_TOKENS))
    return Asked(request=request, handle=Handle(), prompt=prompt, max_new=300, ends_at_s=None, answer=answer)


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
