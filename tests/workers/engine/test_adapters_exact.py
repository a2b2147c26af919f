"""An answer with an adapter is that of a model into whose weights it was merged, whoever else is in the batch."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from transformers import Phi3Config, Phi3ForCausalLM, Qwen2Config, Qwen2ForCausalLM

from tests.workers.engine.asking import ask
from tests.workers.engine.exactness import Judge
from tests.workers.engine.lora import ALL, Lora, a_lora
from tests.workers.engine.test_equality import LONGEST, MIXES, PROMPTS, TIES_SHARE, Mix, random_prompts
from tests.workers.engine.tiny import as_loaded, tiny, tiny_llama
from workers.engine.adapters import Adapters
from workers.engine.sequence import Sequence
from workers.engine.serving import serve, trial

if TYPE_CHECKING:
    from workers.engine.loading import Loaded

NAMES = ("french", "legal", "short")
SHARE = 1 / 3  # of the requests that name one


class Mixed(Mix):
    """A mix in which some of the requests name an adapter."""

    def __init__(self, loaded: "Loaded", dice: random.Random, adapters: Adapters, share: float = SHARE) -> None:
        super().__init__(loaded, dice)
        self.adapters, self.share = adapters, share

    def _request(self, prompts: list[list[int]]) -> Sequence:
        sequence = super()._request(prompts)
        if self.dice.random() < self.share:
            sequence.request = ask("", adapter=self.dice.choice(NAMES))
            self.adapters.lend(sequence)
        return sequence


class Judges:
    """One for the model as it is, and one for each adapter."""

    def __init__(self, loaded: "Loaded", loras: dict[str, Lora], longest: int = LONGEST) -> None:
        self.loaded = loaded
        self.of: dict[str | None, Judge] = {name: Judge(lora.merged(loaded), longest) for name, lora in loras.items()}
        self.of[None] = Judge(loaded, longest)

    def check(self, sequence: Sequence, limit: int | None) -> None:
        self.of[sequence.request.adapter].check(sequence.prompt, sequence.new, limit=limit)

    def accept(self, tokens: int) -> None:
        """Fail if there was little to compare, with any of them, or too many ties."""
        assert all(judge.tokens > tokens for judge in self.of.values())
        assert sum(judge.ties for judge in self.of.values()) <= TIES_SHARE * sum(j.tokens for j in self.of.values())


def three(model: Any) -> dict[str, Lora]:
    """All layers, two kinds of layers, one layer."""
    loras = {
        "french": a_lora(model, 1, targets=ALL),
        "legal": a_lora(model, 2, targets=("q_proj", "v_proj"), rank=4, size=0.3, use_rslora=True),
        "short": a_lora(model, 3, targets=("down_proj",), layers_to_transform=[1], size=0.4),
    }
    for path in list(loras["short"].pairs):
        if ".1." not in path:
            del loras["short"].pairs[path]
    return loras


def adapters_of(loaded: "Loaded", loras: dict[str, Lora], folder: Path) -> Adapters:
    adapters = Adapters(serve(loaded.model), trial)
    for name, lora in loras.items():
        adapters.load(name, lora.save(folder / name))
    return adapters


def test_two_hundred_mixes_with_three_adapters_equal_the_merged_models(tmp_path: Path) -> None:
    """Guards whose tokens are whose: prompts in chunks, rows in the order of the cache, neighbours of all kinds."""
    loaded = as_loaded(tiny_llama(), eos=frozenset({7}))
    loras = three(loaded.model)
    prompts = random_prompts(loaded.vocabulary, random.Random(1), PROMPTS // 4, 70)
    adapters, judges = adapters_of(loaded, loras, tmp_path), Judges(loaded, loras)

    for seed in range(MIXES):
        mix = Mixed(loaded, random.Random(seed), adapters)
        for sequence in mix.run(prompts):
            judges.check(sequence, mix.limit(sequence))

    judges.accept(tokens=500)


def test_the_adapters_of_this_test_change_the_answers(tmp_path: Path) -> None:
    """Otherwise the test above proves nothing."""
    loaded = as_loaded(tiny_llama())
    prompts = random_prompts(loaded.vocabulary, random.Random(1), 5, 20)
    judges = Judges(loaded, three(loaded.model), longest=8)

    for name in NAMES:
        changed = sum(
            judges.of[name]._reference(each).tokens != judges.of[None]._reference(each).tokens for each in prompts
        )
        assert changed >= 4, name


KINDS: dict[str, Callable[[], Any]] = {
    "biases": lambda: tiny(Qwen2ForCausalLM, Qwen2Config),
    "fused layers": lambda: tiny(Phi3ForCausalLM, Phi3Config, pad_token_id=0),
}
TARGETS = {"biases": ALL, "fused layers": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")}


@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds_of_models_are_exact_too(kind: str, tmp_path: Path) -> None:
    loaded = as_loaded(KINDS[kind]())
    loras = {name: a_lora(loaded.model, seed, targets=TARGETS[kind]) for seed, name in enumerate(NAMES)}
    prompts = random_prompts(loaded.vocabulary, random.Random(2), 6, 40)
    adapters, judges = adapters_of(loaded, loras, tmp_path), Judges(loaded, loras)

    for seed in range(8):
        mix = Mixed(loaded, random.Random(seed), adapters, share=0.7)
        for sequence in mix.run(prompts):
            judges.check(sequence, mix.limit(sequence))

    judges.accept(tokens=20)
