"""A small random Llama with the demo model's tokenizer: quick, and on any device and number type the same weights."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workers.engine.loading import Loaded

LENGTH = 4096


def small_model(tokenizer_folder: Path, *, device: str = "cpu", dtype: str = "float32") -> "Loaded":
    """Its answers make no sense, go on to their limit nearly always, and have text in nearly every token."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from workers.engine.loading import Loaded
    from workers.engine.prompts import Prompts

    tokenizer = AutoTokenizer.from_pretrained(str(tokenizer_folder))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=LENGTH,
        initializer_range=0.3,  # large enough that a token follows from all before it, not from the last one alone
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = LlamaForCausalLM(config)
    model = model.to(device=torch.device(device), dtype=getattr(torch, dtype)).eval()
    return Loaded(
        model=model,
        prompts=Prompts(tokenizer),
        eos=frozenset({tokenizer.eos_token_id}),
        vocabulary=len(tokenizer),
        length=LENGTH,
    )
