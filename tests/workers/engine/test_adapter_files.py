"""What PEFT writes is read; what would be computed wrongly, or is no adapter, is refused with the reason."""

import contextlib
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from app.errors import BadAdapter
from tests.workers.engine.lora import Lora, a_lora
from tests.workers.engine.tiny import tiny_llama
from workers.engine.adapted import AdaptedModel
from workers.engine.adapter_files import CONFIG, WEIGHTS, read_adapter
from workers.engine.serving import serve, trial

LIMIT = 1 << 20
PATH = "model.layers.0.self_attn.q_proj"
KEY = f"base_model.model.{PATH}.lora_A.weight"


@pytest.fixture(scope="module")
def host() -> AdaptedModel:
    return AdaptedModel(serve(tiny_llama()), trial)


@pytest.fixture(scope="module")
def lora() -> Lora:
    return a_lora(tiny_llama(), targets=("q_proj", "v_proj"), rank=4)


def take(host: AdaptedModel, folder: Path) -> None:
    """All that is done to a folder before a request may have it."""
    file = read_adapter(folder, most_bytes=LIMIT)
    host.check(file)
    host.fit("some", file)


def test_a_plain_adapter_is_taken(host: AdaptedModel, lora: Lora, tmp_path: Path) -> None:
    take(host, lora.save(tmp_path))


@pytest.mark.parametrize(("rslora", "scale"), [(False, 4.0), (True, 8.0)])
def test_the_scale_is_alpha_by_the_rank_or_by_its_root(lora: Lora, tmp_path: Path, rslora: bool, scale: float) -> None:
    config = {**lora.config, "use_rslora": rslora}

    assert read_adapter(Lora(config, lora.pairs).save(tmp_path), most_bytes=LIMIT).scale == scale


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision_are_taken(
    host: AdaptedModel, lora: Lora, tmp_path: Path, dtype: torch.dtype
) -> None:
    pairs = {path: (down.to(dtype), up.to(dtype)) for path, (down, up) in lora.pairs.items()}

    take(host, Lora(lora.config, pairs).save(tmp_path))


CONFIGS: dict[str, Any] = {
    "peft_type": "IA3",
    "task_type": "SEQ_CLS",
    "use_dora": True,
    "rank_pattern": {"q_proj": 2},
    "alpha_pattern": {"q_proj": 2},
    "bias": "lora_only",
    "lora_bias": True,
    "modules_to_save": ["lm_head"],
    "fan_in_fan_out": True,
    "layer_replication": [[0, 2], [1, 2]],
    "target_parameters": ["mlp.experts.gate_up_proj"],
    "trainable_token_indices": [3],
    "init_lora_weights": "pissa",
    "alora_invocation_tokens": [5, 6],
    "something_of_next_year": {"mode": 1},
    "r": 0,
    "lora_alpha": "16",
}


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_not_run_is_refused_by_name(lora: Lora, tmp_path: Path, name: str) -> None:
    """Each of these changes what the model should answer."""
    folder = Lora({**lora.config, name: CONFIGS[name]}, lora.pairs).save(tmp_path)

    with pytest.raises(BadAdapter, match=rf"adapter_config.json: {name} = "):
        read_adapter(folder, most_bytes=LIMIT)


@pytest.mark.parametrize("r", [257, 10**30, -1, 4.0, True, None, [4], "4"])
def test_a_rank_that_is_none_or_over_the_limit_is_refused(lora: Lora, tmp_path: Path, r: Any) -> None:
    with pytest.raises(BadAdapter, match=r"r = .*must be 1 to 256"):
        read_adapter(Lora({**lora.config, "r": r}, lora.pairs).save(tmp_path), most_bytes=LIMIT)


@pytest.mark.parametrize("alpha", [float("nan"), float("inf"), 1e300, 10**30, None, True])
def test_an_alpha_that_is_none_is_refused(lora: Lora, tmp_path: Path, alpha: Any) -> None:
    with pytest.raises(BadAdapter, match=r"lora_alpha = .*must be a number"):
        read_adapter(Lora({**lora.config, "lora_alpha": alpha}, lora.pairs).save(tmp_path), most_bytes=LIMIT)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[1]", "is no object"),
        ("{}", "has no peft_type"),
        ('"' + "x" * (1 << 20) + '"', "is larger than"),
        ("\x00", "is no JSON"),
    ],
    ids=["cut", "deep", "list", "empty", "long", "nul"],
)
def test_a_config_that_is_none_is_refused(lora: Lora, tmp_path: Path, text: str, said: str) -> None:
    (lora.save(tmp_path) / CONFIG).write_text(text)

    with pytest.raises(BadAdapter, match=f"{CONFIG}: {said}"):
        read_adapter(tmp_path, most_bytes=LIMIT)


def nothing(path: Path) -> None:
    path.unlink()


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def too_large(path: Path) -> None:
    os.truncate(path, LIMIT + 1)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 5)


def a_huge_head(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 1 << 60) + b"{}")


def a_pickle(path: Path) -> None:
    path.unlink()
    torch.save({KEY: torch.zeros(2)}, path.parent / "adapter_model.bin")


def numbers_of_another_type(path: Path) -> None:
    head = json.dumps({KEY: {"dtype": "F4", "shape": [4, 32], "data_offsets": [0, 64]}}).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + bytes(64))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (nothing, "there is no file"),
        (a_pipe, "there is no file"),
        (a_folder, "there is no file"),
        (a_loop, "adapter_model.safetensors"),
        (too_large, "is larger than 1048576 bytes"),
        (cut, "is broken"),
        (a_huge_head, "is broken"),
        (a_pickle, "pickles can run code"),
        (numbers_of_another_type, "is broken, or of numbers that are not read"),
    ],
)
def test_a_weights_file_that_is_none_is_refused(
    lora: Lora, tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    spoil(lora.save(tmp_path) / WEIGHTS)

    with pytest.raises(BadAdapter, match=said):
        read_adapter(tmp_path, most_bytes=LIMIT)


A, B = torch.zeros(4, 32), torch.zeros(32, 4)
AS = "base_model.model.model.layers.0.self_attn.{}.{}.weight"
TENSORS: dict[str, tuple[dict[str, Any], str]] = {
    "another key": ({AS.format("q_proj", "lora_magnitude_vector"): A}, "lora_magnitude_vector.weight is not run"),
    "an embedding": ({"base_model.model.model.embed_tokens.lora_embedding_A": A}, "is not run"),
    "a saved module": ({"base_model.model.lm_head.weight": A}, "lm_head.weight is not run"),
    "integers": ({KEY: A.int()}, "is torch.int32, must be"),
    "another rank": ({KEY: torch.zeros(5, 32)}, r"shape \[5, 32\], which is not of rank 4"),
    "one dimension": ({KEY: torch.zeros(4)}, "which is not of rank 4"),
    "one side": ({KEY: A}, "has lora_A or lora_B alone"),
    "nothing": ({}, "is empty"),
    "a module that is no target": (
        {AS.format("k_proj", "lora_A"): A, AS.format("k_proj", "lora_B"): B},
        "has nothing for the target module",
    ),
}


@pytest.mark.parametrize("what", TENSORS)
def test_weights_that_are_not_what_the_config_says_are_refused(lora: Lora, tmp_path: Path, what: str) -> None:
    tensors, said = TENSORS[what]
    save_file(tensors, lora.save(tmp_path) / WEIGHTS)

    with pytest.raises(BadAdapter, match=said):
        read_adapter(tmp_path, most_bytes=LIMIT)


def test_weights_beside_the_targets_are_refused(lora: Lora, tmp_path: Path) -> None:
    with pytest.raises(BadAdapter, match="v_proj is no target module"):
        read_adapter(Lora({**lora.config, "target_modules": ["q_proj"]}, lora.pairs).save(tmp_path), most_bytes=LIMIT)


def with_pair(lora: Lora, path: str, down: tuple[int, int], up: tuple[int, int]) -> Lora:
    pairs = {**lora.pairs, path: (torch.zeros(down), torch.zeros(up))}
    return Lora({**lora.config, "target_modules": None}, pairs)


def without(lora: Lora, path: str) -> Lora:
    return Lora(lora.config, {each: pair for each, pair in lora.pairs.items() if each != path})


def with_value(lora: Lora, value: float) -> Lora:
    return Lora(lora.config, {**lora.pairs, PATH: (lora.pairs[PATH][0], torch.full((32, 4), value))})


MISFITS: dict[str, tuple[Callable[[Lora], Lora], str]] = {
    "another module": (lambda lora: with_pair(lora, "model.layers.0.attn.query", (4, 32), (32, 4)), "no such linear"),
    "more layers": (
        lambda lora: with_pair(lora, "model.layers.2.self_attn.q_proj", (4, 32), (32, 4)),
        "no such linear",
    ),
    "fewer layers": (lambda lora: without(lora, "model.layers.1.self_attn.q_proj"), "has no weights in the file"),
    "the output layer": (lambda lora: with_pair(lora, "lm_head", (4, 32), (96, 4)), "or none that takes adapters"),
    "a wider model": (
        lambda lora: with_pair(lora, PATH, (4, 64), (64, 4)),
        "is for 64 to 64 numbers, the model has 32 to 32",
    ),
    "no number": (lambda lora: with_value(lora, float("nan")), "values that are no numbers"),
    "too large": (lambda lora: with_value(lora, 3e38), "or too large for torch.float32"),
}


@pytest.mark.parametrize("what", MISFITS)
def test_an_adapter_of_another_model_is_refused(host: AdaptedModel, lora: Lora, tmp_path: Path, what: str) -> None:
    misfit, said = MISFITS[what]

    with pytest.raises(BadAdapter, match=said):
        take(host, misfit(lora).save(tmp_path))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_in_the_files_either_it_is_taken_or_refused(
    host: AdaptedModel, lora: Lora, tmp_path: Path, data: st.DataObject
) -> None:
    """No other error comes out, whichever bytes are turned around."""
    folder = lora.save(tmp_path)
    file = folder / data.draw(st.sampled_from([CONFIG, WEIGHTS]))
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, min(len(content), 1500) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(content)

    with contextlib.suppress(BadAdapter):
        take(host, folder)
