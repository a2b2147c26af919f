"""`slots` with layers that torch compiled: the same tokens, also with adapters; without a compiler the start tells."""

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from app.errors import BadSetting
from benchmarks.steps import ROWS, measure
from tests.machine import lacking
from tests.workers.engine.asking import ask
from tests.workers.engine.exactness import Judge
from tests.workers.engine.lora import a_lora
from tests.workers.engine.tiny import as_loaded, tiny_llama
from workers.engine.packed_linear import PackedLinear
from workers.engine.serving import serve
from workers.engine.slots import SlotsEngine

if TYPE_CHECKING:
    from workers.engine.loading import Loaded

NEW = 12
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # torch of itself


@pytest.fixture(scope="module")
def loaded() -> "Loaded":
    return as_loaded(tiny_llama())


@pytest.fixture(scope="module")
def compiler() -> Iterator[None]:
    if shutil.which("g++") is None:
        lacking("a C++ compiler", "apt-get install g++")
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("compiler")
def test_compiled_layers_write_the_same_tokens_in_any_company(loaded: "Loaded", tmp_path: Path) -> None:
    judge, prompts = Judge(loaded, NEW), [[5], list(range(2, 60)), [9] * 20, [1, 2, 3]]
    with closing(SlotsEngine(loaded, slots=3, max_tokens=100, threads=1, prefill_tokens=16, compiled=True)) as engine:
        a_lora(loaded.model, targets=("q_proj", "down_proj")).save(tmp_path / "french")
        engine.load_adapter("french", tmp_path / "french")
        running = [engine.start(prompt, ask("", max_new_tokens=NEW)) for prompt in prompts]
        adapted = engine.start([5], ask("", max_new_tokens=NEW, adapter="french"))
        answers = [sequence.handle.result().new_tokens for sequence in (*running, adapted)]

    with closing(SlotsEngine(loaded, slots=3, max_tokens=100, threads=1)) as engine:
        engine.load_adapter("french", tmp_path / "french")
        plain = engine.start([5], ask("", max_new_tokens=NEW, adapter="french"))
        plain.handle.result()

    assert answers == [NEW] * 5
    for sequence in running:
        judge.check(sequence.prompt, sequence.new, limit=sequence.max_new)
    assert judge.ties == 0
    assert adapted.new == plain.new != running[0].new


@pytest.mark.usefixtures("compiler")
def test_all_of_a_layer_is_compiled_but_its_attention(loaded: "Loaded") -> None:
    served = serve(loaded.model, compiled=True)

    parts = [dict(layer.named_children()) for layer in served.base_model.layers]
    compiled = [{name for name, part in layer.items() if part._compiled_call_impl is not None} for layer in parts]
    assert compiled == [{"mlp", "input_layernorm", "post_attention_layernorm"}] * 2
    assert not any(isinstance(module, PackedLinear) for module in served.modules())  # torch cannot look into these
    assert serve(loaded.model) is not served


@pytest.mark.usefixtures("compiler")
def test_steps_are_measured_both_ways(loaded: "Loaded") -> None:
    figures = {figure.name: figure.value for figure in measure(loaded, 2)}

    assert list(figures) == [f"{rows} requests: {what}" for rows in ROWS for what in ("a step", "compiled")]
    assert all(value > 0 for value in figures.values())


def test_without_a_compiler_the_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._inductor.config

    torch._dynamo.reset()
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(torch._inductor.config, "force_disable_caches", True)

    with pytest.raises(BadSetting, match=r"SWITCHYARD_COMPILE: torch cannot compile llama: .*compiler.*; leave it out"):
        serve(tiny_llama(), compiled=True)
