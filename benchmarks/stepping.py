"""Steps of the engine `slots` by themselves: so many requests write, a token a step, and nobody else is there."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workers.engine.demo_model import prepare_demo_model
from workers.engine.interface import Handle, Request
from workers.engine.sequence import Answer
from workers.engine.sequence import Sequence as Asked

if TYPE_CHECKING:
    from workers.engine.adapters import Adapters
    from workers.engine.loading import Loaded

MODELS = Path(".switchyard") / "models"
PROMPT_TOKENS, MOST_TOKENS = 16, 300


@dataclass
class Stepping:
    """Requests that write, and how long their steps took, in seconds of this process's CPU."""

    runner: Any
    scheduler: Any
    rows: int
    took_s: list[float] = field(default_factory=list)

    def step(self) -> None:
        """The first one puts the prompts into the cache; it is not among `took_s`."""
        began_s = time.process_time()
        plan = self.scheduler.plan()
        self.runner.run(plan)
        for row in plan.rows:
            row.sequence.new.append(1)
        if not plan.chunks:
            self.took_s.append(time.process_time() - began_s)


def demo_model(dtype: str) -> "Loaded":
    """On one thread of a CPU."""
    import torch

    from workers.engine.loading import load_model

    torch.set_num_threads(1)
    return load_model(str(prepare_demo_model(MODELS)), device="cpu", dtype=dtype)


def stepping(
    served: Any, rows: int, adapters: "Adapters | None" = None, named: Sequence[str | None] = (None,)
) -> Stepping:
    """`rows` requests of a served model; each names an adapter, or none, in turns."""
    from workers.engine.runner import Runner
    from workers.engine.scheduler import Scheduler

    tokens = rows * 512
    scheduler = Scheduler(slots=rows, prefill_tokens=rows * PROMPT_TOKENS, cache_tokens=tokens)
    for row in range(rows):
        sequence = _asked(named[row % len(named)])
        if adapters is not None:
            adapters.lend(sequence)
        scheduler.add(sequence, now_s=0.0)
    runner = Runner(served, cache_tokens=tokens, step_tokens=rows * (PROMPT_TOKENS + 1))
    return Stepping(runner, scheduler, rows)


def _asked(adapter: str | None) -> Asked:
    request = Request(messages=(), max_new_tokens=MOST_TOKENS, adapter=adapter)
    answer = Answer(lambda _: "", ())
    prompt = list(range(1, 1 + PROMPT_TOKENS))
    return Asked(request=request, handle=Handle(), prompt=prompt, max_new=MOST_TOKENS, ends_at_s=None, answer=answer)
