"""The engine of the settings: the kind that is named, or the one that suits the device."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from app.errors import BadSetting
from tests.workers.engine.asking import ask
from tests.workers.engine.lora import a_lora
from workers.engine.adapter_rules import AdapterRules
from workers.engine.build import build_engine
from workers.engine.paged import PagedEngine
from workers.engine.slots import SlotsEngine

if TYPE_CHECKING:
    from workers.engine.loading import Loaded


@pytest.mark.parametrize("kind", ["auto", "paged"])
def test_the_kind_that_is_set_answers_with_the_demo_model(model_folder: Path, kind: str) -> None:
    """The whole way, in the number type that the machine computes best in."""
    expected = PagedEngine if kind == "paged" or torch.cuda.is_available() else SlotsEngine

    engine = build_engine(
        kind=kind, model="", slots=2, max_tokens=96, echo_tokens_per_s=0, cache_dir=model_folder.parent
    )
    result = engine.submit(ask("What is the capital of France?", max_new_tokens=10)).result()
    engine.close()

    assert type(engine) is expected
    assert "Paris" in result.text


def test_a_kind_that_is_none_is_named_with_what_would_be_right(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="SWITCHYARD_ENGINE: steam is none; take auto, slots, paged, openai or echo"):
        build_engine(kind="steam", model="", slots=1, max_tokens=64, echo_tokens_per_s=0, cache_dir=tmp_path)


@pytest.mark.parametrize("kind", ["slots", "paged"])
def test_numbers_that_torch_does_not_have_are_named_with_what_would_be_right(model_folder: Path, kind: str) -> None:
    with pytest.raises(BadSetting, match="SWITCHYARD_DTYPE: float99 is none; take float32, bfloat16 or float16"):
        build_engine(
            kind=kind,
            model="",
            slots=1,
            max_tokens=96,
            echo_tokens_per_s=0,
            cache_dir=model_folder.parent,
            dtype="float99",
        )


def test_a_cache_that_holds_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="SWITCHYARD_CACHE_TOKENS: at least 16, or 0"):
        build_engine(
            kind="slots", model="", slots=1, max_tokens=64, echo_tokens_per_s=0, cache_dir=tmp_path, cache_tokens=1
        )


def test_with_adapters_the_engine_is_the_one_that_runs_them(
    model_folder: Path, tmp_path: Path, loaded: "Loaded"
) -> None:
    a_lora(loaded.model, targets=("q_proj", "v_proj")).save(tmp_path / "french")

    engine = build_engine(
        kind="auto",
        model="",
        slots=2,
        max_tokens=96,
        echo_tokens_per_s=0,
        cache_dir=model_folder.parent,
        adapters=AdapterRules(folder=tmp_path),
    )
    request = "What is the capital of France?"
    plain = engine.submit(ask(request, max_new_tokens=10)).result()
    other = engine.submit(ask(request, max_new_tokens=10, adapter="french")).result()
    engine.close()

    assert type(engine) is SlotsEngine
    assert "Paris" in plain.text
    assert other.text != plain.text
