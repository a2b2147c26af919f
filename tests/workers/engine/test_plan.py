"""`switchyard engine plan` counts what the real tensors take, without loading them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from app.errors import BadSetting
from workers.engine.plan import find_folder, plan, read_memory

if TYPE_CHECKING:
    from workers.engine.loading import Loaded

ROOT = Path(__file__).parents[3]
GQA = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "vocab_size": 96,
    "max_position_embeddings": 4096,
}
MEMORY = 1_000_000


def a_folder(folder: Path, *, weights: int = 1000, **config: Any) -> Path:
    """A model of nothing but a config and one tensor of float32."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**GQA, **config}))
    header = json.dumps({"w": {"dtype": "F32", "shape": [weights], "data_offsets": [0, 4 * weights]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    return folder


def cache_bytes_per_token(model: Any, tokens: int = 7) -> int:
    import torch

    with torch.inference_mode():
        cache = model(torch.ones(1, tokens, dtype=torch.long), use_cache=True).past_key_values
    sizes: list[int] = [tensor.nbytes for layer in cache.layers for tensor in (layer.keys, layer.values)]
    assert sum(sizes) % tokens == 0
    return sum(sizes) // tokens


def test_the_demo_model_takes_what_is_counted(model_folder: Path, loaded: "Loaded") -> None:
    found = plan(str(model_folder), memory_bytes=2 * 10**9, max_tokens=2048, dtype="float32")

    real = list({parameter.data_ptr(): parameter for parameter in loaded.model.parameters()}.values())
    assert found.weights_bytes == sum(parameter.nbytes for parameter in real)
    assert found.parameters == sum(parameter.numel() for parameter in real)
    assert found.bytes_per_token == cache_bytes_per_token(loaded.model)
    assert found.tokens == (2 * 10**9 - found.reserved_bytes - found.weights_bytes) // found.bytes_per_token
    assert found.slots == found.tokens // 2048


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("shard", ["10KB", "1MB"])
def test_a_model_of_grouped_queries_in_several_files(tmp_path: Path, dtype: str, shard: str) -> None:
    """Its heads have a size of their own, not hidden size by heads."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(**GQA))
    model.save_pretrained(tmp_path, max_shard_size=shard)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard == "10KB")

    found = plan(str(tmp_path), memory_bytes=MEMORY, max_tokens=64, dtype=dtype)

    real = model.to(getattr(torch, dtype))
    assert found.weights_bytes == sum(parameter.nbytes for parameter in real.parameters())
    assert found.bytes_per_token == cache_bytes_per_token(real)
    assert (found.layers, found.key_value_heads, found.head_size) == (3, 2, 10)


FALCON: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8, "alibi": False}


@pytest.mark.parametrize(
    ("family", "config", "heads"),
    [
        ("Falcon", {**FALCON, "multi_query": True, "num_kv_heads": 8}, 1),  # as falcon-7b
        ("Falcon", {**FALCON, "multi_query": False}, 8),
        ("Falcon", {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2}, 8),  # as falcon-40b
        ("JetMoe", {**GQA, "num_experts_per_tok": 2, "num_local_experts": 4, "kv_channels": 16}, 2),
        ("Mistral", {**GQA, "sliding_window": 512}, 2),
    ],
)
def test_the_cache_of_a_real_model_is_counted(tmp_path: Path, family: str, config: dict[str, Any], heads: int) -> None:
    """What keeps its keys in its own way; its config is the one that its class writes."""
    import transformers

    model = getattr(transformers, f"{family}ForCausalLM")(
        getattr(transformers, f"{family}Config")(**{**config, "vocab_size": 96})
    )
    model.save_pretrained(tmp_path)

    found = plan(str(tmp_path), memory_bytes=MEMORY, max_tokens=64, dtype="float32")

    assert found.bytes_per_token == cache_bytes_per_token(model)
    assert found.key_value_heads == heads


def test_a_copy_of_the_weights_beside_them_does_not_count(tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    (folder / "consolidated.safetensors").write_bytes((folder / "model.safetensors").read_bytes())

    assert plan(str(folder), memory_bytes=MEMORY, max_tokens=64, dtype="float32").weights_bytes == 4000


def test_without_a_word_on_heads_each_has_its_own_keys_and_values(tmp_path: Path) -> None:
    folder = a_folder(tmp_path, num_key_value_heads=None, head_dim=None)

    found = plan(str(folder), memory_bytes=MEMORY, max_tokens=64, dtype="float16")

    assert (found.key_value_heads, found.head_size) == (8, 6)
    assert found.bytes_per_token == 2 * 3 * 8 * 6 * 2


def test_a_model_that_is_larger_than_the_memory_has_no_slot(tmp_path: Path) -> None:
    found = plan(str(a_folder(tmp_path, weights=10**6)), memory_bytes=MEMORY, max_tokens=64, dtype="float16")

    assert (found.tokens, found.slots) == (0, 0)


def test_a_slot_is_no_longer_than_the_model_takes(tmp_path: Path) -> None:
    found = plan(str(a_folder(tmp_path)), memory_bytes=MEMORY, max_tokens=9000, dtype="float16")

    assert found.max_tokens == 4096
    assert found.notes == ("SWITCHYARD_MAX_TOKENS is 9000; the model takes 4096",)


def test_packed_weights_keep_their_size_and_their_number_is_not_known(tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    header = json.dumps({"w": {"dtype": "I32", "shape": [10], "data_offsets": [0, 40]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)

    found = plan(str(folder), memory_bytes=MEMORY, max_tokens=64, dtype="float16")

    assert (found.weights_bytes, found.parameters) == (40, None)


def test_without_all_its_files_the_index_counts(tmp_path: Path) -> None:
    """A snapshot of the hub's cache that was not downloaded to its end."""
    folder = a_folder(tmp_path, dtype="bfloat16")
    index = {"metadata": {"total_size": 8000}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    found = plan(str(folder), memory_bytes=MEMORY, max_tokens=64, dtype="float32")

    assert (found.weights_bytes, found.parameters) == (16_000, 4000)
    assert found.notes == ("weights: by the index, not all files are here",)


def test_layers_with_a_window_are_counted_as_full_and_it_says_so(tmp_path: Path) -> None:
    folder = a_folder(tmp_path, layer_types=["full_attention", "sliding_attention", "full_attention"])

    (note,) = plan(str(folder), memory_bytes=MEMORY, max_tokens=64, dtype="float32").notes

    assert "window" in note


@pytest.mark.parametrize("longest", [0, -1, "4096", [4096], 0.5, {}])
def test_a_length_that_is_none_is_refused(tmp_path: Path, longest: Any) -> None:
    folder = a_folder(tmp_path, max_position_embeddings=longest)

    with pytest.raises(BadSetting, match="max_position_embeddings must be a whole number"):
        plan(str(folder), memory_bytes=MEMORY, max_tokens=64, dtype="float16")


@pytest.mark.parametrize("content", ["", "[]", "null", "{", "[" * 100_000, '{"a": ' + "9" * 5000 + "}", "\udcff"])
def test_a_config_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    folder = a_folder(tmp_path)
    (folder / "config.json").write_bytes(content.encode(errors="surrogateescape"))

    with pytest.raises(BadSetting, match=r"config\.json is no JSON"):
        plan(str(folder), memory_bytes=MEMORY, max_tokens=64, dtype="float16")


NO_SIZES: list[Any] = [None, "8000", -1, 0, 1.5, 2**61]
NO_METADATA: list[Any] = [None, [], 8000, {}, *({"total_size": size} for size in NO_SIZES)]
NO_MAPS: list[Any] = [None, [], {}, ["x.safetensors"]]
NO_NAMES: list[Any] = [5, None, [], "", ".", "../x", "x" * 999]


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ({"weight_map": {"a": "x.safetensors"}}, "metadata.total_size"),
        *(({"weight_map": {"a": "x.safetensors"}, "metadata": one}, "metadata.total_size") for one in NO_METADATA),
        *(({"weight_map": one}, "weight_map must name") for one in NO_MAPS),
        *(({"weight_map": {"a": one}}, "weight_map must name") for one in NO_NAMES),
        ({"weight_map": {"a": "\ud800"}, "metadata": None}, "metadata.total_size"),
    ],
)
def test_an_index_that_is_none_is_refused(tmp_path: Path, index: dict[str, Any], reason: str) -> None:
    folder = a_folder(tmp_path)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    with pytest.raises(BadSetting, match=reason):
        plan(str(folder), memory_bytes=MEMORY, max_tokens=64, dtype="float16")


def test_shards_without_an_index_are_all_counted(tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    shards = [folder / f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    for shard in shards:
        shard.write_bytes((folder / "model.safetensors").read_bytes())
    (folder / "model.safetensors").unlink()

    found = plan(str(folder), memory_bytes=MEMORY, max_tokens=64, dtype="float32")
    shards[1].unlink()

    assert (found.weights_bytes, found.parameters) == (3 * 4000, 3000)
    with pytest.raises(BadSetting, match="2 of 3 files, and no index"):
        plan(str(folder), memory_bytes=MEMORY, max_tokens=64, dtype="float32")


def test_of_what_is_in_old_files_the_weights_count_alone(tmp_path: Path) -> None:
    """What a training left beside them is no weight."""
    folder = a_folder(tmp_path, torch_dtype="float32")
    (folder / "model.safetensors").unlink()
    for name in ("training_args.bin", "optimizer.bin"):
        (folder / name).write_bytes(b"0" * 5000)

    with pytest.raises(BadSetting, match="no weights"):
        plan(str(folder), memory_bytes=MEMORY, max_tokens=64, dtype="float16")
    for number in (1, 2):
        (folder / f"pytorch_model-0000{number}-of-00002.bin").write_bytes(b"0" * 2000)
    found = plan(str(folder), memory_bytes=MEMORY, max_tokens=64, dtype="float16")

    assert (found.weights_bytes, found.parameters) == (2000, 1000)
    assert found.notes == ("weights: by the size of the files",)


@pytest.mark.parametrize("offsets", [[8, 0], [-8, 0], [0.0, 8.0], ["0", "8"], [0], [True, 8], [0, 2**61], None])
def test_a_tensor_that_lies_nowhere_is_refused(tmp_path: Path, offsets: Any) -> None:
    folder = a_folder(tmp_path)
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": offsets}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)

    with pytest.raises(BadSetting, match="no safetensors file"):
        plan(str(folder), memory_bytes=MEMORY, max_tokens=64, dtype="float16")


@pytest.mark.parametrize("broken", [b"", b"12345678", b"\xff" * 30, (2).to_bytes(8, "little") + b"[]"])
def test_a_weight_file_that_is_none_is_refused(tmp_path: Path, broken: bytes) -> None:
    folder = a_folder(tmp_path)
    (folder / "model.safetensors").write_bytes(broken)

    with pytest.raises(BadSetting, match="no safetensors file"):
        plan(str(folder), memory_bytes=MEMORY, max_tokens=64, dtype="float16")


def test_a_model_that_is_not_here_is_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path))

    for name in ("nobody/nothing", "no such thing", "../x"):
        with pytest.raises(BadSetting, match="no such folder"):
            find_folder(name)


@pytest.mark.parametrize(
    ("text", "size"), [("24GB", 24 * 10**9), ("80 GiB", 80 * 2**30), ("16000mb", 16 * 10**9), ("1.5TiB", 3 * 2**39)]
)
def test_memory_is_read_with_its_unit(text: str, size: int) -> None:
    assert read_memory(text) == size


@pytest.mark.parametrize("text", ["24", "GB", "0GB", "-1GB", "1e9GB", "9" * 99 + "GB", "24 bananas", "", "٢٤GB"])
def test_memory_without_a_unit_is_refused(text: str) -> None:
    with pytest.raises(BadSetting, match="24GB"):
        read_memory(text)


def test_the_command_prints_a_table_and_an_object_and_loads_no_torch(model_folder: Path) -> None:
    command = (
        "import sys, app.cli\n"
        "try: app.cli.main()\n"
        "finally: assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )

    def run(*more: str) -> "subprocess.CompletedProcess[str]":
        arguments = ["engine", "plan", "--model", str(model_folder), "--memory", "8GiB", *more]
        return subprocess.run(
            [sys.executable, "-c", command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )

    table, listed, wrong = run(), run("--json", "--max-tokens", "1000"), run("--dtype", "int4")

    assert table.returncode == 0, table.stderr
    assert "2 x 30 layers x 3 heads x 64" in table.stdout
    found = json.loads(listed.stdout)
    assert (found["bytes_per_token"], found["max_tokens"]) == (23_040, 1000)
    assert found["slots"] == found["tokens"] // 1000
    assert (wrong.returncode, wrong.stderr.strip()) == (2, "--dtype int4: must be one of float32, float16, bfloat16")
