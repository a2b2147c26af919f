"""What a token takes is read out of a config as the model's own class reads it, or the model is refused."""

import json
import warnings
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.errors import BadSetting
from workers.engine.cache_shape import LARGEST, CacheShape, cache_shape

LLAMA: dict[str, Any] = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}
GROUPED = {**LLAMA, "num_key_value_heads": 8}
FALCON = {"model_type": "falcon", "hidden_size": 4544, "num_hidden_layers": 32, "num_attention_heads": 71}
FALCON_40B = {"hidden_size": 8192, "num_hidden_layers": 60, "num_attention_heads": 128, "num_kv_heads": 8}
NESTED = {"num_key_value_heads": 4, "head_dim": 256}
# fmt: off
KNOWN = [
    "llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "gemma", "gemma2", "gemma3_text",
    "gpt_oss", "phi", "phi3", "glm4", "glm4_moe", "olmo2", "olmo3", "granite", "smollm3", "cohere2", "falcon",
    "stablelm", "starcoder2", "opt", "gpt_neox", "exaone4", "seed_oss", "minimax_m2",
]
# fmt: on

NUMBERS_OF_A_CONFIG = ["num_attention_heads", "num_hidden_layers", "num_key_value_heads", "head_dim", "hidden_size"]
NO_NUMBERS: list[Any] = [0, -1, -128, 0.5, 8.0, "8", [8], {}, True, LARGEST + 1]
NO_LISTS: list[Any] = ["full_attention", [None], [1], [{}], 7]
NO_DEFAULT = {"gemma4_assistant"}  # needs to be told which model it assists


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (LLAMA, (32, 32, 128)),  # a key head for each of 32, of 4096 / 32
        (GROUPED, (32, 8, 128)),
        ({**GROUPED, "head_dim": 64}, (32, 8, 64)),  # the size that is said, not the one that follows
        ({**LLAMA, "num_key_value_heads": None, "head_dim": None}, (32, 32, 128)),  # null says nothing
        ({**FALCON, "multi_query": True, "num_kv_heads": 71}, (32, 1, 64)),  # falcon-7b: one head; 4544 / 71
        (FALCON, (32, 1, 64)),  # of this class it is the default
        ({**FALCON, "multi_query": False}, (32, 71, 64)),
        ({**FALCON_40B, "new_decoder_architecture": True, "multi_query": True}, (60, 128, 64)),  # 8192 / 128
        ({**GROUPED, "kv_channels": 96}, (32, 8, 96)),  # jetmoe
        ({"model_type": "gemma3", "text_config": {**GROUPED, **NESTED}}, (32, 4, 256)),
        ({"hidden_size": 1, "text_config": {**GROUPED, **NESTED}}, (32, 4, 256)),  # what is about text goes before
        ({**GROUPED, "attn_type_list": [1] * 32}, (32, 8, 128)),  # minimax-m2: all of them softmax
        ({**GROUPED, "full_attn_idxs": list(range(32))}, (32, 8, 128)),
        ({**GROUPED, "layer_types": ["attention"] * 32, "mamba_d_state": 256}, (32, 8, 128)),  # granite 4.0 micro
        ({**GROUPED, "architectures": ["LlamaForCausalLM"]}, (32, 8, 128)),
        ({**GROUPED, "architectures": []}, (32, 8, 128)),
        ({**GROUPED, "use_mamba_kernels": False, "linear_bias": None}, (32, 8, 128)),
    ],
)
def test_layers_heads_and_their_size_are_read(config: dict[str, Any], shape: tuple[int, int, int]) -> None:
    found = cache_shape(config)

    assert (found.layers, found.heads, found.size) == shape


@pytest.mark.parametrize(
    ("more", "note"),
    [
        ({}, None),
        ({"sliding_window": 4096}, "window"),  # mistral v0.1
        ({"sliding_window": None}, None),
        ({"sliding_window": 32768, "use_sliding_window": False}, None),  # qwen2
        ({"attention_chunk_size": 8192}, "window"),  # llama 4
        ({"layer_types": ["full_attention"], "sliding_window": 4096}, None),  # none of the layers uses it
        ({"layer_types": ["full_attention", "sliding_attention"]}, "window"),
        ({"layer_types": ["chunked_attention"]}, "window"),
        ({"num_kv_shared_layers": 15}, "use the keys and values of others"),  # gemma 3n
        ({"num_kv_shared_layers": 0}, None),
        ({"num_key_value_heads": None, "new_decoder_architecture": True, "num_kv_heads": 8}, "its 8 groups"),
    ],
)
def test_what_is_counted_higher_than_it_need_be_is_noted(more: dict[str, Any], note: str | None) -> None:
    found = cache_shape({**GROUPED, **more})

    assert [note in one for one in found.notes] == [True] if note else found.notes == ()


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"kv_lora_rank": 512}, "latent attention"),  # deepseek
        ({"full_attention_interval": 4}, "linear layers .full_attention_interval"),  # qwen3-next
        ({"linear_num_key_heads": 16}, "linear_num_key_heads"),
        ({"attn_layer_period": 8, "attn_layer_offset": 4}, "attn_layer_period"),  # jamba
        ({"mamba_d_state": 256}, "mamba_d_state"),  # falcon-h1: both in each layer
        ({"n_mamba_heads": 2}, "n_mamba_heads"),  # zamba
        ({"ssm_state_size": 128}, "ssm_state_size"),
        ({"hybrid_override_pattern": "M-M*-"}, "hybrid_override_pattern"),  # nemotron-h
        ({"block_types": ["recurrent", "recurrent", "attention"]}, "layers of recurrent .block_types"),
        ({"lru_width": 2560}, "lru_width"),  # recurrentgemma whose blocks are left out
        ({"full_attn_idxs": [2, 5, 8]}, "convolutions"),  # lfm2
        ({"full_attn_idxs": []}, "convolutions"),
        ({"attn_type_list": [0] * 7 + [1]}, "attn_type_list"),  # minimax-text
        ({"layers_block_type": ["mamba", "attention"] * 16}, "layers of mamba .layers_block_type"),
        ({"layer_types": ["linear_attention", "full_attention"]}, "layers of linear_attention"),
        ({"layer_types": ["a", "b", "c", "d"]}, "layers of a, b, c, …"),
        ({"layer_types": ["full_attention"], "global_head_dim": 512}, "heads of its layers differ"),  # gemma 4
        ({"v_head_dim": 64}, "v_head_dim"),
        ({"index_head_dim": 128}, "index"),  # minimax-m3
        ({"attn_layers": ["local", "lsh"]}, "attn_layers"),  # reformer
        ({"cross_attention_layers": [3, 8]}, "pictures"),  # mllama
        ({"architectures": ["BertModel"]}, "BertModel is no model that writes"),
        ({"architectures": ["RobertaForMaskedLM", "BertForSequenceClassification"]}, "RobertaForMaskedLM"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder"),
        ({"text_config": {"hidden_size": 2560}}, "text_config does not say num_key_value_heads"),
        ({"text_config": {"num_key_value_heads": 8}}, "text_config does not say head_dim"),  # gemma3 12b: 256, not 240
        ({"text_config": [1]}, "text_config must be an object"),
        ({"hidden_size": 8}, "num_attention_heads is 32"),
        ({"num_key_value_heads": 64}, "num_attention_heads is 32"),
        ({"num_hidden_layers": None}, "no num_hidden_layers"),
        *(({name: one}, f"{name} must be a whole number") for name in NUMBERS_OF_A_CONFIG for one in NO_NUMBERS),
        *(({"layer_types": one}, "layer_types must be a list") for one in NO_LISTS),
        ({"attn_type_list": "1"}, "attn_type_list must be"),
        ({"full_attn_idxs": [1.5]}, "full_attn_idxs must be"),
        ({"architectures": "LlamaForCausalLM"}, "architectures must be"),
    ],
)
def test_what_cannot_be_counted_is_refused_with_the_name_and_the_reason(more: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadSetting, match=reason):
        cache_shape({**GROUPED, **more})


# fmt: off
NAMES = st.sampled_from([
    "num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "num_kv_heads", "head_dim",
    "kv_channels", "v_head_dim", "layer_types", "layers_block_type", "block_types", "attn_type_list",
    "full_attn_idxs", "text_config", "architectures", "is_encoder_decoder", "multi_query", "new_decoder_architecture",
    "model_type", "sliding_window", "attention_chunk_size", "use_sliding_window", "num_kv_shared_layers",
    "kv_lora_rank", "mamba_d_state", "full_attention_interval", "per_layer_config",
])
# fmt: on
NUMBERS = st.none() | st.booleans() | st.integers() | st.integers(1, 64) | st.floats()
ANY_JSON = st.recursive(
    NUMBERS | st.sampled_from(["", "8", "ü", "full_attention", "recurrent", "falcon", "LlamaForCausalLM"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=8,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be
@given(st.dictionaries(NAMES, ANY_JSON, max_size=5))
def test_whatever_stands_in_a_config_there_is_a_shape_or_a_refusal(more: dict[str, Any]) -> None:
    """Never another exception, and never a number below one."""
    try:
        found = cache_shape({**GROUPED, **more})
    except BadSetting:
        return
    assert all(type(number) is int and number > 0 for number in (found.layers, found.heads, found.size))
    assert all(note for note in found.notes)


def families() -> dict[str, Any]:
    """Of each family of transformers that writes text: the config of its class with nothing but defaults."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {name: CONFIG_MAPPING[name]() for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if name not in NO_DEFAULT}


def by_its_class(config: Any) -> CacheShape | None:
    """None if its layers are not all attention that keeps keys and values for itself."""
    from transformers.cache_utils import get_layer_types_and_kwargs

    text = config.get_text_config(decoder=True)
    kinds = set(get_layer_types_and_kwargs(text)[0]) - {"full_attention", "sliding_attention", "chunked_attention"}
    if kinds - {"dummy"}:  # a layer that uses another's keys and values is counted as if it had its own
        return None
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return CacheShape(layers=text.num_hidden_layers, heads=heads, size=size)


def test_every_family_of_transformers_is_counted_as_its_class_does_or_refused() -> None:
    """So no new family with another cache goes through as one of plain keys and values."""
    wrong, counted = {}, set()
    for name, config in families().items():
        said = json.loads(config.to_json_string())
        try:
            found = cache_shape(said)
        except BadSetting:
            continue
        counted.add(name)
        real = by_its_class(config)
        if real is None or (real.layers, real.heads, real.size) != (found.layers, found.heads, found.size):
            wrong[name] = (found, real)

    assert set(wrong) == {"falcon"}  # its class does not say that all heads share one; see the real ones in test_plan
    assert set(KNOWN) <= counted
