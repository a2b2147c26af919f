"""Adapters on a GPU, in float16: each answer is that of the model with its own adapter merged."""

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from tests.workers.engine.asking import ask
from tests.workers.engine.computing import LENGTHS, a_prompt
from tests.workers.engine.lora import a_lora
from tests.workers.engine.reference import MOST_TIES, ties
from workers.engine.slots import SlotsEngine

if TYPE_CHECKING:
    from workers.engine.loading import Loaded

if not torch.cuda.is_available():
    pytest.skip("no GPU here", allow_module_level=True)

NAMES = (None, "french", "legal")


def test_answers_with_adapters_equal_those_of_the_merged_models(small: "Loaded", tmp_path: Path) -> None:
    loras = {name: a_lora(small.model, seed, size=0.05) for seed, name in enumerate(NAMES) if name}
    prompts = [a_prompt(small, length) for length, _ in LENGTHS]

    with closing(SlotsEngine(small, slots=3, max_tokens=700)) as engine:
        for name, lora in loras.items():
            engine.load_adapter(name, lora.save(tmp_path / name))
        running = [
            engine.start(prompt, ask("", max_new_tokens=limit, adapter=NAMES[i % len(NAMES)]))
            for i, (prompt, (_, limit)) in enumerate(zip(prompts, LENGTHS, strict=True))
        ]
        for sequence in running:
            sequence.handle.result()

    models = {None: small} | {name: lora.merged(small) for name, lora in loras.items()}
    counted = sum(
        ties(models[one.request.adapter], one.prompt, one.new, limit)
        for one, (_, limit) in zip(running, LENGTHS, strict=True)
    )
    assert counted <= MOST_TIES[small.model.dtype]
