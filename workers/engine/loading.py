"""A folder or hub name -> model, tokenizer and limits; what the slots engine cannot run is refused here."""

import inspect
import logging
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.cache_utils import get_layer_types_and_kwargs
from transformers.utils.logging import disable_progress_bar

from app.errors import BadSetting
from workers.engine.prompts import Prompts

log = logging.getLogger(__name__)

NEEDED = ("position_ids", "past_key_values", "logits_to_keep")
KINDS = {"full_attention", "sliding_attention"}
# The frequencies of these depend on the longest row of a batch, so one request would change the others'.
ROPE_BY_LENGTH = ("dynamic", "longrope")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that is ready, and what the engine must know of it."""

    model: Any
    prompts: Prompts
    eos: frozenset[int]
    vocabulary: int
    length: int | None  # the most tokens that the model itself can take


def load_model(name: str, *, device: str | None, dtype: str | None) -> Loaded:
    """Load a causal language model for inference.

    Raises:
        BadSetting: it cannot be found or read, has no chat template, or its layers are not all attention.
    """
    disable_progress_bar()  # a worker's stderr is a log
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        prompts = Prompts(tokenizer)  # before the weights: a model without a chat template is refused at once
        model = AutoModelForCausalLM.from_pretrained(name, dtype=pick_dtype(where, dtype), attn_implementation="sdpa")
    except (OSError, ValueError) as exc:
        raise BadSetting(f"SWITCHYARD_MODEL: {name} cannot be loaded: {exc}") from exc
    check_attention(model)
    model = model.to(where).eval()
    log.info("model loaded", extra={"device": str(where), "dtype": str(model.dtype)})
    return Loaded(
        model=model,
        prompts=prompts,
        eos=end_tokens(model, tokenizer),
        vocabulary=model.get_input_embeddings().num_embeddings,
        length=longest(model.config.get_text_config()),
    )


def pick_dtype(device: torch.device, wanted: str | None) -> torch.dtype:
    """float16 on a GPU; on a CPU bfloat16 where it computes in it, else float32. `wanted` is torch's name of a type.

    float16 on a CPU is several times slower than float32 as soon as a batch has more than a few rows.
    """
    if wanted is not None:
        chosen = getattr(torch, wanted, None)
        if not isinstance(chosen, torch.dtype):
            raise BadSetting(f"SWITCHYARD_DTYPE: {wanted} is none; take float32, bfloat16 or float16")
        return chosen
    if device.type == "cuda":
        return torch.float16
    able = torch.cpu.get_capabilities()
    return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32


def check_attention(model: Any) -> None:
    """Raise BadSetting, with the reason, for a model that one cache of keys and values of all tokens cannot serve."""
    config = model.config.get_text_config()
    kinds = set(get_layer_types_and_kwargs(config)[0]) - KINDS
    if kinds:
        raise BadSetting(
            f"SWITCHYARD_MODEL: {config.model_type} has layers of {', '.join(sorted(kinds))}; "
            "the engine `slots` runs models whose layers are all full or sliding attention"
        )
    taken = inspect.signature(model.forward).parameters
    if missing := [name for name in NEEDED if name not in taken]:
        raise BadSetting(
            f"SWITCHYARD_MODEL: {config.model_type} takes no {', '.join(missing)}; "
            "the engine needs a model that takes each row's own positions"
        )


def longest(config: Any) -> int | None:
    """The most tokens of prompt and answer that the model takes, if it says so."""
    limit: int | None = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in ROPE_BY_LENGTH:
        original: int | None = rope.get("original_max_position_embeddings")
        limit = original or getattr(config, "original_max_position_embeddings", None) or limit
    return limit


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end an answer: of the generation config, else of the model's, and the tokenizer's own."""
    ends: set[int] = set()
    for found in (model.generation_config.eos_token_id or model.config.eos_token_id, tokenizer.eos_token_id):
        ends.update(found if isinstance(found, list) else [] if found is None else [found])
    return frozenset(ends)
