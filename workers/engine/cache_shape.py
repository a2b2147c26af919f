"""What one token takes in a model's cache, by its config.json: keys and values in every layer alike, or a refusal.

The names are those of transformers' configuration classes (5.23) and of what published models add to them. A model
that is not understood is refused: a number that is wrong by a factor is worse than none.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from app.errors import BadSetting

LARGEST: Final = 2**31 - 1  # of any number in a config
_FULL: Final = {"full_attention", "attention"}
_WINDOWS: Final = {"sliding_attention", "chunked_attention"}
_KINDS_OF_LAYERS: Final = ("layer_types", "layers_block_type", "block_types")
_WRITES: Final = re.compile("CausalLM|LMHead|ConditionalGeneration")
_STATE: Final = re.compile(r"(^|_)(mamba|ssm|lru|kda)_|^(linear|recurrent|time_mix)_|^attn_layer_(period|indices)$")
_OTHER: Final = {
    "kv_lora_rank": "it keeps compressed keys and values (latent attention)",
    "index_head_dim": "it keeps an index beside keys and values",
    "hybrid_override_pattern": "its layers are of several kinds",
    "full_attention_interval": "it has linear layers",
    "cross_attention_layers": "some of its layers attend to pictures",
    "attn_layers": "its attention is none of all tokens",
    "H_cycles": "it runs its layers several times",
    "per_layer_config": "the heads of its layers differ",
    "global_head_dim": "the heads of its layers differ",
    "num_global_key_value_heads": "the heads of its layers differ",
    "swa_num_key_value_heads": "the heads of its layers differ",
}
_WINDOW_NOTE: Final = "layers with a window are counted as full: more fits where the engine makes use of it"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheShape:
    """A token keeps 2 x layers x heads x size numbers."""

    layers: int
    heads: int  # that keep keys and values
    size: int  # of a head
    notes: tuple[str, ...] = ()


def cache_shape(config: dict[str, Any]) -> CacheShape:
    """Read the whole of a config.json. Raises BadSetting, with the reason, for what cannot be counted this way."""
    _check_that_it_writes(config)
    text = part_on_text(config)
    layers, hidden, heads = (
        positive_int(text, name) for name in ("num_hidden_layers", "hidden_size", "num_attention_heads")
    )
    kinds = _kinds_of_layers(text)
    if kinds is None:
        _check_for_states(text, layers)
    _check_for_others(text, decided=kinds is not None)
    kept = _kept_heads(text, heads)
    size = positive_int(text, "head_dim", positive_int(text, "kv_channels", hidden // heads))
    if not size or kept > heads:
        raise BadSetting(f"config.json: num_attention_heads is {heads}, with hidden_size {hidden} and {kept} key heads")
    if positive_int(text, "v_head_dim", size) != size:
        raise BadSetting(_refusal("v_head_dim", "its values are of another size than its keys"))
    notes = (_note_on_windows(text, kinds), _note_on_shared(text), _note_on_falcon(text, kept))
    return CacheShape(layers=layers, heads=kept, size=size, notes=tuple(filter(None, notes)))


def part_on_text(config: dict[str, Any]) -> dict[str, Any]:
    """The config, with what its text_config says laid over it. Raises BadSetting."""
    nested = config.get("text_config")
    if nested is None:
        return config
    if not isinstance(nested, dict):
        raise BadSetting("config.json: text_config must be an object")
    # transformers leaves out of it what is the default of the model's class, and only the class knows that
    for name in ("num_key_value_heads", "head_dim"):
        if nested.get(name) is None:
            raise BadSetting(f"config.json: text_config does not say {name}: this model cannot be counted this way")
    return {**config, **nested}


def positive_int(config: dict[str, Any], name: str, default: int | None = None) -> int:
    """A number from 1 on; `default` where there is none or null. Raises BadSetting that names it."""
    value = config.get(name)
    if value is None and default is not None:
        return default
    if value is None:
        raise BadSetting(f"config.json has no {name}: this model cannot be counted this way")
    if type(value) is not int or not 0 < value <= LARGEST:
        raise BadSetting(f"config.json: {name} must be a whole number from 1 to {LARGEST}")
    return value


def _check_that_it_writes(config: dict[str, Any]) -> None:
    named = config.get("architectures")
    if config.get("is_encoder_decoder"):
        raise BadSetting(_refusal("is_encoder_decoder", "it has an encoder beside it"))
    if named is None or named == []:
        return
    if not _are_names(named):
        raise BadSetting("config.json: architectures must be a list of names")
    if not any(map(_WRITES.search, named)):
        raise BadSetting(_refusal("architectures", f"{_some(named)} is no model that writes text"))


def _kinds_of_layers(config: dict[str, Any]) -> set[str] | None:
    """The kinds that the config lists, all of them attention; None if it has no such list."""
    for name in _KINDS_OF_LAYERS:
        listed = config.get(name)
        if listed is None or listed == []:
            continue
        if not _are_names(listed):
            raise BadSetting(f"config.json: {name} must be a list of names")
        if others := set(listed) - _FULL - _WINDOWS:
            raise BadSetting(_refusal(name, f"it has layers of {_some(sorted(others))}"))
        return set(listed)
    return None


def _check_for_states(config: dict[str, Any], layers: int) -> None:
    """Linear and recurrent layers keep a state in place of keys and values."""
    for name, value in config.items():
        if _STATE.search(name) and value not in (None, False):
            raise BadSetting(_refusal(name[:60], "it has linear or recurrent layers"))
    kinds, full = _ints(config, "attn_type_list"), _ints(config, "full_attn_idxs")
    if kinds is not None and set(kinds) - {1}:  # 1: softmax, 0: linear
        raise BadSetting(_refusal("attn_type_list", "it has linear layers"))
    if full is not None and len({number for number in full if 0 <= number < layers}) < layers:
        raise BadSetting(_refusal("full_attn_idxs", "its other layers are convolutions"))


def _check_for_others(config: dict[str, Any], *, decided: bool) -> None:
    """`decided`: a list says of each layer that it is attention."""
    for name, reason in _OTHER.items():
        if config.get(name) and not (decided and name == "full_attention_interval"):
            raise BadSetting(_refusal(name, reason))


def _kept_heads(config: dict[str, Any], heads: int) -> int:
    """How many heads keep keys and values."""
    if config.get("num_key_value_heads") is not None:
        return positive_int(config, "num_key_value_heads")
    if _is_new_falcon(config):
        return heads  # transformers lays the keys out for every query head before it keeps them
    if config.get("multi_query", config.get("model_type") == "falcon"):
        return 1
    return positive_int(config, "num_kv_heads", heads)


def _is_new_falcon(config: dict[str, Any]) -> bool:
    return bool(config.get("new_decoder_architecture"))


def _note_on_windows(config: dict[str, Any], kinds: set[str] | None) -> str:
    if kinds is not None:
        return _WINDOW_NOTE if kinds & _WINDOWS else ""
    window = config.get("sliding_window") or config.get("attention_chunk_size")
    return _WINDOW_NOTE if window and config.get("use_sliding_window", True) else ""


def _note_on_shared(config: dict[str, Any]) -> str:
    if not config.get("num_kv_shared_layers"):
        return ""
    return "some layers use the keys and values of others: more fits; counted as if each kept its own"


def _note_on_falcon(config: dict[str, Any], kept: int) -> str:
    grouped = config.get("num_kv_heads")
    if not _is_new_falcon(config) or grouped is None or positive_int(config, "num_kv_heads") == kept:
        return ""
    return f"transformers keeps {kept} heads of this model; a server that keeps its {grouped} groups holds more"


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _ints(config: dict[str, Any], name: str) -> list[int] | None:
    value = config.get(name)
    if value is not None and not (isinstance(value, list) and all(type(one) is int for one in value)):
        raise BadSetting(f"config.json: {name} must be a list of whole numbers")
    return value


def _some(names: Sequence[str]) -> str:
    """At most three of them, of bounded length."""
    return ", ".join(name[:60] for name in names[:3]) + (", …" if len(names) > 3 else "")


def _refusal(name: str, reason: str) -> str:
    return f"config.json: {reason} ({name}): this model cannot be counted this way"
