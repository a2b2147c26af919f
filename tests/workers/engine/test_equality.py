"""Whatever joins and leaves around it, a request gets the tokens that the model gives it alone."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests.workers.engine.asking import ask
from tests.workers.engine.conftest import MakeSlots
from tests.workers.engine.exactness import Judge
from tests.workers.engine.tiny import as_loaded, tiny, tiny_llama
from workers.engine.interface import Handle
from workers.engine.packing import CALL_COST_TOKENS
from workers.engine.sequence import Answer, Sequence

if TYPE_CHECKING:
    from workers.engine.loading import Loaded

MIXES, LONGEST = 200, 24
TIES_SHARE = 0.01
PROMPTS = 40
MOST_PROMPT = 100  # tokens


@dataclass
class Mix:
    """Requests that come, are answered and leave in steps; the same for the same seed."""

    loaded: "Loaded"
    dice: random.Random
    reused: int = 0  # tokens that were in the cache already
    cancelled: list[Sequence] = field(default_factory=list)

    def run(self, prompts: list[list[int]]) -> list[Sequence]:
        """All of it, step by step as the engine does, without its thread; returns every request with what it got."""
        from workers.engine.runner import Runner
        from workers.engine.sampling import pick
        from workers.engine.scheduler import Scheduler
        from workers.engine.serving import serve

        slots, prefill, cache = self.dice.randint(1, 6), self.dice.randint(1, 40), self.dice.choice([128, 300, 2000])
        scheduler = Scheduler(slots=slots, prefill_tokens=prefill, cache_tokens=cache)
        runner = Runner(serve(self.loaded.model), cache_tokens=cache, step_tokens=prefill + slots)
        coming = [self._request(prompts) for _ in range(self.dice.randint(2, 9))]
        begun: list[Sequence] = []
        while coming or scheduler:
            for _ in range(self.dice.choice([0, 0, 1, 3])):
                if coming:
                    begun.append(self._follow_up(coming.pop(), begun))
                    scheduler.add(begun[-1], now_s=0.0)
            for sequence in [each for each in scheduler if self.dice.random() < 0.01]:
                scheduler.remove(sequence)
                self.cancelled.append(sequence)
            if scheduler:
                plan = scheduler.plan()
                logits = runner.run(plan)
                tokens = [] if logits is None else pick(logits, [row.sequence for row in plan.rows])
                for row, token in zip(plan.rows, tokens, strict=True):
                    assert token is not None
                    if row.sequence.take(token, self.loaded.eos):
                        scheduler.remove(row.sequence)
        self.reused = scheduler.places.reused_tokens
        return begun

    def limit(self, sequence: Sequence) -> int | None:
        """How many tokens its answer must have, unless it ends by itself; None: it was cancelled."""
        return None if sequence in self.cancelled else sequence.max_new

    def _follow_up(self, coming: Sequence, begun: list[Sequence]) -> Sequence:
        """Now and then: what was said before in its place, whole or in part, and a little more."""
        if begun and self.dice.random() < 0.5:
            before = self.dice.choice(begun)
            said = before.prompt + before.new
            coming.prompt = (said[: self.dice.randint(1, len(said))] + coming.prompt[:8])[:MOST_PROMPT]
        return coming

    def _request(self, prompts: list[list[int]]) -> Sequence:
        return Sequence(
            request=ask(""),
            handle=Handle(),
            prompt=self.dice.choice(prompts),
            max_new=self.dice.randint(1, LONGEST),
            ends_at_s=None,
            answer=Answer(lambda tokens: "", ()),
        )


def random_prompts(vocabulary: int, dice: random.Random, count: int, longest: int) -> list[list[int]]:
    return [[dice.randrange(vocabulary) for _ in range(dice.randint(1, longest))] for _ in range(count)]


def test_two_hundred_mixes_of_arrivals_lengths_and_cancels_equal_one_by_one_generation() -> None:
    """Guards every change of cache, spans, masks, positions and packing. The model has grouped key heads."""
    loaded = as_loaded(tiny_llama(), eos=frozenset({7}))
    prompts = random_prompts(loaded.vocabulary, random.Random(1), PROMPTS, 70)
    judge = Judge(loaded, LONGEST)

    reused = 0
    for seed in range(MIXES):
        mix = Mix(loaded, random.Random(seed))
        for sequence in mix.run(prompts):
            judge.check(sequence.prompt, sequence.new, limit=mix.limit(sequence))
        reused += mix.reused

    assert judge.tokens > 5000
    assert reused > 5000
    assert judge.ties <= TIES_SHARE * judge.tokens


def test_neighbours_attended_to_together_are_exact_however_long_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where padding is cheap: what a row is padded with must not show."""
    monkeypatch.setitem(CALL_COST_TOKENS, "cpu", CALL_COST_TOKENS["cuda"])
    loaded = as_loaded(tiny_llama())
    prompts = random_prompts(loaded.vocabulary, random.Random(4), 20, 70)
    judge = Judge(loaded, LONGEST)

    for seed in range(30):
        mix = Mix(loaded, random.Random(seed))
        for sequence in mix.run(prompts):
            judge.check(sequence.prompt, sequence.new, limit=mix.limit(sequence))

    assert judge.tokens > 500
    assert judge.ties <= TIES_SHARE * judge.tokens


WINDOW = 8
KINDS: dict[str, Callable[[], Any]] = {
    "one key head": lambda: tiny(LlamaForCausalLM, LlamaConfig, num_key_value_heads=1),
    "a key head each": lambda: tiny(LlamaForCausalLM, LlamaConfig, num_key_value_heads=4),
    "sliding window": lambda: tiny(MistralForCausalLM, MistralConfig, sliding_window=WINDOW),
    "biases": lambda: tiny(Qwen2ForCausalLM, Qwen2Config),
    "normed queries": lambda: tiny(Qwen3ForCausalLM, Qwen3Config, head_dim=16),
    "windows in turns": lambda: tiny(
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        head_dim=16,
        sliding_window=WINDOW,
        layer_types=["sliding_attention", "full_attention"],
        initializer_range=0.2,
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_attention_that_is_taken_is_exact(kind: str) -> None:
    """A window is shorter than the prompts here, so that it matters."""
    loaded = as_loaded(KINDS[kind]())
    prompts = random_prompts(loaded.vocabulary, random.Random(2), 8, 40)
    judge = Judge(loaded, LONGEST)

    for seed in range(8):
        mix = Mix(loaded, random.Random(seed))
        for sequence in mix.run(prompts):
            judge.check(sequence.prompt, sequence.new, limit=mix.limit(sequence))

    assert judge.tokens > 200
    assert judge.ties <= TIES_SHARE * judge.tokens


QUESTIONS = [
    "What is the capital of France?",
    "Write one sentence about the sea, the moon and an old ship that never came home.",
    "Hi",
    "Translate to English: 北京是中国的首都。",
    "List three colours",
    "2 + 2 =",
    "Name a planet with rings 🪐",
]


def test_twenty_mixes_on_the_demo_model_equal_one_by_one_generation(loaded: "Loaded", make_slots: MakeSlots) -> None:
    """With a real model, through the engine's own thread; prompts are prefilled in chunks of 24 tokens.

    They come while others write, some follow up what was answered, and some are cancelled.
    """
    prompts = [loaded.prompts.encode((("user", question),)) for question in QUESTIONS]
    judge, dice = Judge(loaded, 8), random.Random(5)
    engine = make_slots(slots=4, prefill_tokens=24)
    places = engine._scheduler.places

    said: list[Sequence] = []
    for _ in range(20):
        running: list[Sequence] = []
        for _ in range(dice.randint(2, 5)):
            prompt = dice.choice(prompts)
            if said and dice.random() < 0.25:
                before = dice.choice(said)
                prompt = before.prompt + before.new + prompt
            running.append(engine.start(prompt[:120], ask("", max_new_tokens=dice.randint(1, judge.longest))))
            if dice.random() < 0.5:
                running[-1].handle.next_piece(60)
        if dice.random() < 0.5:
            dice.choice(running).handle.cancel()
        for sequence in running:
            cancelled = sequence.handle.result().finish == "cancelled"
            judge.check(sequence.prompt, sequence.new, limit=None if cancelled else sequence.max_new)
        said += running

    assert judge.tokens > 200
    assert places.reused_tokens > 1000
    assert judge.ties <= max(1, TIES_SHARE * judge.tokens)


def test_a_judge_that_sees_a_wrong_token_fails() -> None:
    """Otherwise the tests above prove nothing."""
    loaded = as_loaded(tiny_llama())
    judge = Judge(loaded, 4)
    right = judge._reference([1, 2, 3]).tokens

    judge.check([1, 2, 3], right, limit=4)

    with torch.inference_mode(), pytest.raises(AssertionError, match="no tie"):
        judge.check([1, 2, 3], [right[0], (right[1] + 1) % loaded.vocabulary], limit=None)
    with pytest.raises(AssertionError, match="ends after 3 of 4"):
        judge.check([1, 2, 3], right[:3], limit=4)
