"""The demo model, loaded once in float32 for all tests of the engine; engines share its weights."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.workers.engine.small import small_model
from workers.engine.demo_model import prepare_demo_model

if TYPE_CHECKING:
    from workers.engine.loading import Loaded
    from workers.engine.slots import SlotsEngine

CACHE = Path(__file__).parents[3] / ".switchyard" / "models"
THREADS = 1  # two that wait for each other crawl when something else has a core

MakeSlots = Callable[..., "SlotsEngine"]


@pytest.fixture(scope="session")
def model_folder() -> Path:
    return prepare_demo_model(CACHE)


@pytest.fixture(scope="session")
def loaded(model_folder: Path) -> "Loaded":
    import torch

    from workers.engine.loading import load_model

    torch.set_num_threads(THREADS)
    return load_model(str(model_folder), device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def small(model_folder: Path) -> "Loaded":
    """A small random model, for what needs many tokens and no sense in them."""
    import torch

    torch.set_num_threads(THREADS)
    return small_model(model_folder)


@pytest.fixture
def make_slots(loaded: "Loaded") -> Iterator[MakeSlots]:
    """Makes slots engines on the shared weights; closes them when the test ends."""
    from workers.engine.slots import SlotsEngine

    made: list[SlotsEngine] = []

    def make(
        *,
        slots: int = 3,
        max_tokens: int = 512,
        prefill_tokens: int | None = None,
        cache_tokens: int | None = None,
        model: "Loaded" = loaded,
    ) -> SlotsEngine:
        engine = SlotsEngine(
            model,
            slots=slots,
            max_tokens=max_tokens,
            cache_tokens=cache_tokens,
            threads=THREADS,
            prefill_tokens=prefill_tokens,
        )
        made.append(engine)
        return engine

    yield make
    for engine in made:
        engine.close()
