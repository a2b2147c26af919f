"""How many answers fit into a GPU's memory at the same time: from a model's config and the heads of its weight files.

Neither torch nor a weight is loaded, and nothing is downloaded.
"""

import json
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from app.errors import BadSetting
from workers.engine.cache_shape import cache_shape, part_on_text, positive_int

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
_LARGEST_SIZE: Final = 2**60  # bytes
_LONGEST_NAME: Final = 200  # characters of a file's name, below what file systems take
_SHARD: Final = re.compile(r".+-(\d{1,6})-of-(\d{1,6})", re.ASCII)


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
    shape = cache_shape(config)
    text = part_on_text(config)
    weights = measure_weights(folder, dtype, text)
    per_token = 2 * shape.layers * shape.heads * shape.size * DTYPE_BYTES[dtype]
    reserved = int(memory_bytes * RESERVED_SHARE)
    tokens = max(0, memory_bytes - reserved - weights.bytes) // per_token
    longest = positive_int(text, "max_position_embeddings", max_tokens)
    one = min(max_tokens, longest)
    notes = [weights.note, *shape.notes, _note_on_length(max_tokens, longest)]
    return Plan(
        model=model,
        dtype=dtype,
        memory_bytes=memory_bytes,
        reserved_bytes=reserved,
        parameters=weights.parameters,
        weights_bytes=weights.bytes,
        layers=shape.layers,
        key_value_heads=shape.heads,
        head_size=shape.size,
        bytes_per_token=per_token,
        tokens=tokens,
        max_tokens=one,
        slots=tokens // one,
        notes=tuple(filter(None, notes)),
    )


def read_memory(text: str) -> int:
    """Bytes out of such as 24GB, 80GiB, 16000 MB. Raises BadSetting."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)\s*([a-z]{2,3})", text.strip().lower(), re.ASCII)
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


def measure_weights(folder: Path, dtype: str, config: dict[str, Any]) -> Weights:
    """The size of the weights in `dtype`: from the files' heads, else from the index, else from the files' sizes.

    Raises:
        BadSetting: there are no weights, or an index or a file is none.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        named = _read(index)
        files = [folder / name for name in _names_of_files(index, named)]
        if not all(file.is_file() for file in files):
            return _converted(_total(index, named), dtype, config, "weights: by the index, not all files are here")
    else:
        files = _one_or_shards(folder, "model", ".safetensors")
    if files:
        return _by_their_heads(files, dtype)
    stored = sum(file.stat().st_size for file in _one_or_shards(folder, "pytorch_model", ".bin"))
    if not stored:
        raise BadSetting(f"there are no weights in {folder}: no model*.safetensors, no index, no pytorch_model*.bin")
    return _converted(stored, dtype, config, "weights: by the size of the files")


def _by_their_heads(files: Iterable[Path], dtype: str) -> Weights:
    tensors = [tensor for file in files for tensor in read_tensors(file)]
    total = sum(count * DTYPE_BYTES[dtype] if kind in _FLOATS else stored for kind, count, stored in tensors)
    packed = any(kind not in _FLOATS for kind, _, _ in tensors)
    return Weights(total, None if packed else sum(count for _, count, _ in tensors))


def _one_or_shards(folder: Path, stem: str, suffix: str) -> list[Path]:
    """The file of this name, which holds all (some repositories have a second copy beside it), or all its shards."""
    one = folder / f"{stem}{suffix}"
    if one.is_file():
        return [one]
    found = {
        file: int(match.group(2))
        for file in sorted(folder.glob(f"{stem}-*{suffix}"))
        if (match := _SHARD.fullmatch(file.name.removesuffix(suffix))) and file.is_file()
    }
    if set(found.values()) - {len(found)}:
        raise BadSetting(f"not all weights are in {folder}: {len(found)} of {max(found.values())} files, and no index")
    return list(found)


def _names_of_files(file: Path, index: dict[str, Any]) -> list[str]:
    named = index.get("weight_map")
    if not isinstance(named, dict) or not named or not all(map(_is_name_of_file, named.values())):
        raise BadSetting(f"{file}: weight_map must name a file of this folder for each tensor")
    return sorted(set(named.values()))


def _is_name_of_file(value: Any) -> bool:
    return isinstance(value, str) and value == Path(value).name and 0 < len(value) <= _LONGEST_NAME


def _total(file: Path, index: dict[str, Any]) -> int:
    metadata = index.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    if type(total) is not int or not 0 < total <= _LARGEST_SIZE:
        raise BadSetting(f"{file}: not all of its files are here, and metadata.total_size is no number of bytes")
    return total


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
                kind, stored = str(tensor["dtype"]), _length(*tensor["data_offsets"])
                yield kind, stored // _FLOATS.get(kind, 1), stored
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise BadSetting(f"{file} is no safetensors file, or was cut") from exc


def _length(start: Any, end: Any) -> int:
    """Bytes from `start` to `end`. Raises ValueError."""
    if type(start) is not int or type(end) is not int or not 0 <= start <= end <= _LARGEST_SIZE:
        raise ValueError("no place in a file")
    return end - start


def _converted(stored: int, dtype: str, config: dict[str, Any], note: str) -> Weights:
    """What files of this size make in `dtype`, if the config says in which they are."""
    of = DTYPE_BYTES.get(str(config.get("dtype") or config.get("torch_dtype")))
    return Weights(stored * DTYPE_BYTES[dtype] // of, stored // of, note) if of else Weights(stored, None, note)


def _read_config(folder: Path) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        raise BadSetting(f"there is no config.json in {folder}")
    return _read(folder / "config.json")


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as exc:
        raise BadSetting(f"{file} is no JSON") from exc
    if not isinstance(content, dict):
        raise BadSetting(f"{file} is no JSON object")
    return content


def _note_on_length(wanted: int, longest: int) -> str:
    return f"SWITCHYARD_MAX_TOKENS is {wanted}; the model takes {longest}" if longest < wanted else ""
