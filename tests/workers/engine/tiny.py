"""Small random models for tests: made in milliseconds, with logits far enough apart that ties are rare."""

from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

if TYPE_CHECKING:
    from workers.engine.loading import Loaded

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 512,
    "initializer_range": 0.4,
}


def tiny(model_class: Any, config_class: Any, **more: Any) -> Any:
    """A random model of a family, the same each time; one key head for two query heads."""
    torch.set_num_threads(1)  # two that wait for each other crawl when something else has a core
    torch.manual_seed(3)
    model = model_class(config_class(**{**SIZES, **more})).eval()
    model.generation_config.eos_token_id = model.config.eos_token_id = None
    return model


def tiny_llama() -> Any:
    return tiny(LlamaForCausalLM, LlamaConfig)


def as_loaded(model: Any, eos: frozenset[int] = frozenset()) -> "Loaded":
    """The model with a tokenizer whose tokens are words that are numbers."""
    from workers.engine.loading import Loaded, longest
    from workers.engine.prompts import Prompts

    size = model.config.get_text_config().vocab_size
    words = Tokenizer(models.WordLevel({str(number): number for number in range(size)}, unk_token="0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    template = "{% for message in messages %}{{ message.content }} {% endfor %}"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, chat_template=template)
    return Loaded(
        model=model,
        prompts=Prompts(tokenizer),
        eos=eos,
        vocabulary=size,
        length=longest(model.config.get_text_config()),
    )
