"""A loaded model -> the model that the engine `slots` runs: the same weights, packed attention, packed linear layers.

The loaded model stays as it was. Before the first request both answer the same few tokens: a model that takes its
positions, its cache or its attention in another way than the engine thinks is refused at start, not wrong later.
"""

import copy
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from app.errors import BadSetting
from workers.engine.attention import PACKED
from workers.engine.interface import Handle, Request
from workers.engine.packed_linear import can_pack, pack_linears
from workers.engine.runner import Runner
from workers.engine.scheduler import Scheduler
from workers.engine.sequence import Answer, Sequence
from workers.engine.spans import SMALLEST

TRIAL_PROMPTS = ((5, 9, 3, 7, 11, 2, 8), (4, 6, 10))
TRIAL_CHUNK = 4  # tokens a step: the first prompt takes two, the second joins while the first one ends
DIFFERENCE = {torch.float32: 1e-3}  # of the largest logit; half precision rounds more
DIFFERENCE_HALF = 0.1

# Engines on one loaded model share what is made of it, compiled or not.
_served: WeakKeyDictionary[Any, dict[bool, Any]] = WeakKeyDictionary()


def serve(model: Any, *, compiled: bool = False) -> Any:
    """The model to run. It is the same one for the same loaded model. `compiled`: see `compile_layers`.

    Raises:
        BadSetting: it does not compute what the loaded model computes; the text says why.
    """
    known = _served.setdefault(model, {})
    if compiled not in known:
        name = model.config.get_text_config().model_type
        try:
            served = _made_of(model, compiled)
            found = trial(served)
        except (TypeError, ValueError, AttributeError, RuntimeError, LookupError) as exc:
            why = f"{exc}".partition("\n")[0]  # torch goes on for pages about a compiler
            if compiled:
                raise BadSetting(f"SWITCHYARD_COMPILE: torch cannot compile {name}: {why}; leave it out") from exc
            raise BadSetting(f"SWITCHYARD_MODEL: the engine `slots` cannot run {name}, take another: {why}") from exc
        _compare(model, found, name)
        known[compiled] = served
    return known[compiled]


def _made_of(model: Any, compiled: bool) -> Any:
    """New modules around the same tensors, except for linear layers that are packed."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    served = copy.deepcopy(model, shared)
    served.set_attn_implementation(PACKED)
    if compiled:
        compile_layers(served)
    elif can_pack(served):
        pack_linears(served)
    return served


def compile_layers(served: Any) -> None:
    """Let torch compile each layer but for its attention, whose work is another one at each step.

    It happens at the first tokens. On a CPU a step then takes longer (`python -m benchmarks.steps`); on a GPU, where a
    step is many small kernels, it may take less.
    """
    for layer in served.base_model.layers:
        for name, part in layer.named_children():
            if name != "self_attn":
                part.compile(dynamic=True)


def _compare(model: Any, found: list[Tensor], name: str) -> None:
    """Raise BadSetting if a prompt in two chunks, beside another one, had other logits than by itself."""
    for prompt, logits in zip(TRIAL_PROMPTS, found, strict=True):
        with torch.inference_mode():
            alone = model(torch.tensor([prompt], device=model.device)).logits[0, -1].float()
        off = float((logits - alone).abs().max() / alone.abs().max())
        if not off <= DIFFERENCE.get(model.dtype, DIFFERENCE_HALF):
            raise BadSetting(f"SWITCHYARD_MODEL: the engine `slots` computes {name} wrongly, off by {off:.2g}")


def trial(served: Any) -> list[Tensor]:
    """The logits [vocabulary] behind each of the prompts, by the way that requests go."""
    tokens = SMALLEST * len(TRIAL_PROMPTS)
    runner = Runner(served, cache_tokens=tokens, step_tokens=TRIAL_CHUNK + len(TRIAL_PROMPTS))
    scheduler = Scheduler(slots=len(TRIAL_PROMPTS), prefill_tokens=TRIAL_CHUNK, cache_tokens=tokens)
    tried = [_a_sequence(prompt) for prompt in TRIAL_PROMPTS]
    for sequence in tried:
        scheduler.add(sequence, now_s=0.0)
    found: dict[int, Tensor] = {}
    while len(found) < len(tried):
        plan = scheduler.plan()
        logits = runner.run(plan)
        for at, row in enumerate(plan.rows):
            assert logits is not None
            found.setdefault(id(row.sequence), logits[at].clone())
            row.sequence.new.append(1)
    return [found[id(sequence)] for sequence in tried]


def _a_sequence(prompt: tuple[int, ...]) -> Sequence:
    request = Request(messages=(), max_new_tokens=8)
    answer = Answer(lambda _: "", ())
    return Sequence(request=request, handle=Handle(), prompt=list(prompt), max_new=8, ends_at_s=None, answer=answer)
