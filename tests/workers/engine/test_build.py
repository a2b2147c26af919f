"""The engine of the settings: the kind that is named, or the one that suits the device."""

from pathlib import Path

import pytest
import torch

from app.errors import BadSetting
from tests.workers.engine.asking import ask
from workers.engine.build import build_engine
from workers.engine.paged import PagedEngine
from workers.engine.slots import SlotsEngine


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
