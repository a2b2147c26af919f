"""How many answers fit into a GPU's memory at the same time: from a model's config and the heads of its weight files.

Neither torch nor a weight is loaded, and nothing is downloaded.
"""

import json
import re
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from app.errors import BadSetting

DTYPE_BYTES: Final = {"float32": 4, "float16": 2, "bfloat16": 2}
RESERVED_SHARE: Final = 0.1  # of the memory, for CUDA and what a step computes: an allowance, not a measurement
_FLOATS: Final = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
}  # converted when they are loaded; all others stay as they are
_UNITS: Final = {"mb": 10**6, "mib": 2**20, "gb": 10**9, "gib": 2**30, "tb": 10**12, "tib": 2**40}
_HEADER_LIMIT: Final = 100_000_000  # bytes; the format's own limit
_FULL: Final = "full_attention"
_PLAIN: Final = frozenset((_FULL, "sliding_attention", "chunked_attention", "attention"))
_WRITES: Final = re.compile(r"CausalLM|LMHead|ConditionalGeneration")
# Where a config says that some of its layers keep a state and not keys and values of each token.
_MIXED: Final = (
    "attn_layer_period", "attn_type_list", "block_types", "full_attention_interval", "full_attn_idxs",
    "hybrid_override_pattern", "layers_block_type", "linear_num_key_heads", "mamba_d_state", "state_size",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a model takes and what is left. Sizes in bytes."""

    model: str
    dtype: str
    memory_bytes: int
    reserved_bytes: int
    parameters: int | None  # None: the weight files do not tell
    weights_bytes: int
    layers: int
    key_value_heads: int
    head_size: int
    bytes_per_token: int
    tokens: int  # that the cache can hold
    max_tokens: int  # of one answer with its prompt
    slots: int
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"notes": list(self.notes)}


@dataclass(frozen=True, slots=True)
class Weights:
    """The size of all weights in memory, once they are loaded."""

    bytes: int
    parameters: int | None
    note: str = ""


def plan(model: str, *, memory_bytes: int, max_tokens: int, dtype: str) -> Plan:
    """Count for a model in a folder, or of the hub if it is in the local cache.

    Raises:
        BadSetting: there is no such model here, or its cache is not one of plain keys and values.
    """
    folder = find_folder(model)
    config = _read_config(folder)
    layers, heads, size = cache_shape(config)
    weights = measure_weights(folder, dtype, config)
    per_token = 2 * layers * heads * size * DTYPE_BYTES[dtype]
    reserved = int(memory_bytes * RESERVED_SHARE)
    tokens = max(0, memory_bytes - reserved - weights.bytes) // per_token
    longest = _number(config, "max_position_embeddings", max_tokens)
    one = min(max_tokens, longest)
    notes = [weights.note, _note_on_layers(config), _note_on_length(max_tokens, longest)]
    return Plan(
        model=model,
        dtype=dtype,
        memory_bytes=memory_bytes,
        reserved_bytes=reserved,
        parameters=weights.parameters,
        weights_bytes=weights.bytes,
        layers=layers,
        key_value_heads=heads,
        head_size=size,
        bytes_per_token=per_token,
        tokens=tokens,
        max_tokens=one,
        slots=tokens // one,
        notes=tuple(filter(None, notes)),
    )


def read_memory(text: str) -> int:
    """Bytes out of such as 24GB, 80GiB, 16000 MB. Raises BadSetting."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)\s*([a-z]{2,3})", text.strip().lower())
    if found is None or found.group(2) not in _UNITS or not float(found.group(1)):
        raise BadSetting(f"--memory {text}: write it with its unit, such as 24GB, 80GiB or 16000MB")
    return int(float(found.group(1)) * _UNITS[found.group(2)])


def find_folder(model: str) -> Path:
    """The model's own folder, or that of its newest snapshot in the hub's cache. Raises BadSetting."""
    folder = Path(model)
    if folder.is_dir():
        return folder
    try:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError
    except ImportError as exc:
        raise BadSetting(f"--model {model}: there is no such folder; name one") from exc
    try:
        cached = try_to_load_from_cache(model, "config.json")
    except HFValidationError:
        cached = None
    if not isinstance(cached, str):
        raise BadSetting(f"--model {model}: there is no such folder, and the hub's cache here does not have it")
    return Path(cached).parent


def cache_shape(config: dict[str, Any]) -> tuple[int, int, int]:
    """Layers, key-value heads and size of a head. Raises BadSetting."""
    made_for = config.get("architectures")
    if isinstance(made_for, list) and made_for and not any(_WRITES.search(str(name)) for name in made_for):
        raise BadSetting(f"this model is not made to write ({made_for[0]})")
    if config.get("kv_lora_rank"):
        raise BadSetting(
            "this model keeps compressed keys and values (latent attention): it cannot be counted this way"
        )
    states = [name for name in _MIXED if config.get(name) is not None]
    if states or (kinds := _layer_types(config) - _PLAIN):
        told = ", ".join(states or sorted(kinds))
        raise BadSetting(f"this model has layers that keep no keys and values ({told}): it cannot be counted this way")
    heads, hidden, layers = (
        _number(config, name) for name in ("num_attention_heads", "hidden_size", "num_hidden_layers")
    )
    if hidden < heads:
        raise BadSetting("config.json: hidden_size is less than num_attention_heads")
    return layers, _key_value_heads(config, heads), _number(config, "head_dim", hidden // heads)


def _key_value_heads(config: dict[str, Any], heads: int) -> int:
    """Falcon's older models have one, and say it in a word of their own."""
    if config.get("multi_query") and not config.get("new_decoder_architecture"):
        return 1
    return _number(config, "num_key_value_heads", _number(config, "num_kv_heads", heads))


def _layer_types(config: dict[str, Any]) -> set[str]:
    kinds = config.get("layer_types") or []
    if not isinstance(kinds, list) or not all(isinstance(kind, str) for kind in kinds):
        raise BadSetting("config.json: layer_types is no list of words")
    return set(kinds)


def measure_weights(folder: Path, dtype: str, config: dict[str, Any]) -> Weights:
    """The size of the weights in `dtype`: from the files' heads, else from the index, else from the files' sizes.

    Raises:
        BadSetting: there are no weights.
    """
    index = folder / "model.safetensors.index.json"
    named, indexed = _read_index(index) if index.is_file() else (set(), 0)
    # Without an index one file of this name holds all; some repositories have a second copy beside it.
    shards = named or {file.name for file in folder.glob("model-*-of-*.safetensors")} or {"model.safetensors"}
    files = [folder / name for name in sorted(shards)]
    if all(file.is_file() for file in files):
        tensors = [tensor for file in files for tensor in read_tensors(file)]
        total = sum(count * DTYPE_BYTES[dtype] if kind in _FLOATS else stored for kind, count, stored in tensors)
        packed = any(kind not in _FLOATS for kind, _, _ in tensors)
        return Weights(total, None if packed else sum(count for _, count, _ in tensors))
    if indexed:
        return _converted(indexed, dtype, config, "weights: by the index, not all files are here")
    stored = sum(file.stat().st_size for file in folder.glob("pytorch_model*.bin"))
    if not stored:
        raise BadSetting(f"there are no weights in {folder}: no *.safetensors, no index, no pytorch_model*.bin")
    return _converted(stored, dtype, config, "weights: by the size of the files")


def _read_index(index: Path) -> tuple[set[str], int]:
    """The names of the files, and the bytes of all tensors; 0 if it does not tell. Raises BadSetting."""
    content = _read(index)
    named, metadata = content.get("weight_map") or {}, content.get("metadata") or {}
    if not isinstance(named, dict) or not isinstance(metadata, dict):
        raise BadSetting(f"{index} is no index of weights")
    files, total = set(named.values()), metadata.get("total_size", 0)
    if not all(isinstance(name, str) and Path(name).name == name for name in files) or type(total) is not int:
        raise BadSetting(f"{index} is no index of weights")
    return files, max(0, total)


def read_tensors(file: Path) -> Iterator[tuple[str, int, int]]:
    """Kind of number, how many of them, and bytes in the file, for each tensor. Raises BadSetting.

    The format: 8 bytes with the length of a JSON object, then that object, then the numbers.
    """
    with file.open("rb") as opened:
        head = opened.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else _HEADER_LIMIT + 1
        header = opened.read(length) if length <= _HEADER_LIMIT else b""
    try:
        tensors = json.loads(header)
        for name, tensor in tensors.items():
            if name != "__metadata__":
                start, end = tensor["data_offsets"]
                if not 0 <= start <= end:
                    raise ValueError("a tensor of no size")
                yield tensor["dtype"], (end - start) // _FLOATS.get(tensor["dtype"], 1), end - start
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise BadSetting(f"{file} is no safetensors file, or was cut") from exc


def _converted(stored: int, dtype: str, config: dict[str, Any], note: str) -> Weights:
    """What files of this size make in `dtype`, if the config says in which they are."""
    of = DTYPE_BYTES.get(str(config.get("dtype") or config.get("torch_dtype")))
    return Weights(stored * DTYPE_BYTES[dtype] // of, stored // of, note) if of else Weights(stored, None, note)


def _read_config(folder: Path) -> dict[str, Any]:
    """The part of the config that is about text."""
    if not (folder / "config.json").is_file():
        raise BadSetting(f"there is no config.json in {folder}")
    config = _read(folder / "config.json")
    text: dict[str, Any] = (
        {**config, **config["text_config"]} if isinstance(config.get("text_config"), dict) else config
    )
    return text


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as exc:
        raise BadSetting(f"{file} is no JSON") from exc
    if not isinstance(content, dict):
        raise BadSetting(f"{file} is no JSON object")
    return content


def _number(config: dict[str, Any], name: str, default: int | None = None) -> int:
    """A whole number above 0. Raises BadSetting."""
    value = default if config.get(name) is None else config[name]
    if value is None:
        raise BadSetting(f"config.json has no {name}: this model cannot be counted this way")
    if type(value) is not int or not 0 < value < 2**40:
        raise BadSetting(f"config.json: {name} is no whole number above 0: this model cannot be counted this way")
    return value


def _note_on_layers(config: dict[str, Any]) -> str:
    kinds = _layer_types(config)
    windows = kinds - {_FULL, "attention"} if kinds else config.get("sliding_window")
    if not windows or config.get("use_sliding_window") is False:
        return ""
    return "some layers keep a window alone: more fits where the engine makes use of it; counted as full"


def _note_on_length(wanted: int, longest: int) -> str:
    return f"SWITCHYARD_MAX_TOKENS is {wanted}; the model takes {longest}" if longest < wanted else ""
