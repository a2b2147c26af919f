"""GGUF of a Llama -> a Hugging Face folder in float16.

transformers can read a GGUF too, but then needs the package accelerate and parses the vocabulary number by number,
which takes several times as long. What stands here covers what the demo model is: Llama weights and a byte-level BPE.
"""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf.quants import dequantize
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

CONTROL = 3  # GGUF's token_type of a token that stands for no text

# GGUF's name of a tensor -> Hugging Face's, inside one layer
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def convert(source: Path, folder: Path) -> None:
    """Write the model and the tokenizer of a GGUF into a folder that `from_pretrained` loads."""
    disable_progress_bar()
    reader = gguf.GGUFReader(str(source))
    fields = {name: field.contents() for name, field in reader.fields.items()}
    model = _model(fields, reader.tensors)
    model.generation_config = GenerationConfig(
        bos_token_id=fields["tokenizer.ggml.bos_token_id"],
        eos_token_id=fields["tokenizer.ggml.eos_token_id"],
        pad_token_id=fields["tokenizer.ggml.padding_token_id"],
    )
    model.save_pretrained(folder)
    _tokenizer(fields).save_pretrained(folder)


def _model(fields: dict[str, Any], tensors: list[Any]) -> Any:
    config = _config(fields, tied=all(tensor.name != "output.weight" for tensor in tensors))
    model = LlamaForCausalLM(config).to(torch.float16)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    weights = dict(_weight(tensor, heads) for tensor in tensors)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise ValueError(f"the GGUF does not fit: missing {missing}, unexpected {unexpected}")
    return model


def _config(fields: dict[str, Any], *, tied: bool) -> Any:
    return LlamaConfig(
        vocab_size=len(fields["tokenizer.ggml.tokens"]),
        hidden_size=fields["llama.embedding_length"],
        intermediate_size=fields["llama.feed_forward_length"],
        num_hidden_layers=fields["llama.block_count"],
        num_attention_heads=fields["llama.attention.head_count"],
        num_key_value_heads=fields["llama.attention.head_count_kv"],
        max_position_embeddings=fields["llama.context_length"],
        rms_norm_eps=fields["llama.attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": fields["llama.rope.freq_base"]},
        bos_token_id=fields["tokenizer.ggml.bos_token_id"],
        eos_token_id=fields["tokenizer.ggml.eos_token_id"],
        pad_token_id=fields["tokenizer.ggml.padding_token_id"],
        tie_word_embeddings=tied,
    )


def _weight(tensor: Any, heads: dict[str, int]) -> tuple[str, torch.Tensor]:
    values = dequantize(tensor.data, tensor.tensor_type)
    name = tensor.name.removesuffix(".weight")
    if not name.startswith("blk."):
        return f"{OUTSIDE[name]}.weight", torch.tensor(values)
    _, layer, part = name.split(".")
    if part in heads:
        values = _unpermute(values, heads[part])
    return f"model.layers.{layer}.{LAYER[part]}.weight", torch.tensor(values)


def _unpermute(values: "np.ndarray[Any, Any]", heads: int) -> "np.ndarray[Any, Any]":
    """GGUF keeps the two halves of a rotary pair side by side, Hugging Face half a head apart."""
    pairs = values.reshape(heads, values.shape[0] // heads // 2, 2, values.shape[1])
    return pairs.swapaxes(1, 2).reshape(values.shape)


def _tokenizer(fields: dict[str, Any]) -> Any:
    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    if (kind := fields["tokenizer.ggml.pre"]) != "smollm":
        raise ValueError(f"this vocabulary splits text in a way that is not known here: {kind}")
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    types = fields["tokenizer.ggml.token_type"]
    tokenizer.add_special_tokens([token for token, type_ in zip(tokens, types, strict=True) if type_ == CONTROL])

    def named(role: str) -> str:
        token_id: int = fields[f"tokenizer.ggml.{role}_token_id"]
        return tokens[token_id]

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=named("bos"),
        eos_token=named("eos"),
        unk_token=named("unknown"),
        pad_token=named("padding"),
        chat_template=fields["tokenizer.chat_template"],
        clean_up_tokenization_spaces=False,
        model_max_length=fields["llama.context_length"],
    )
