"""Right tokens in any company, and failures that stay alone: both engines on a GPU, in float16."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import torch

from tests.workers.engine.computing import *  # noqa: F403  # the tests are run here
from tests.workers.engine.making import Make, making

if TYPE_CHECKING:
    from workers.engine.loading import Loaded

if not torch.cuda.is_available():
    pytest.skip("no GPU here", allow_module_level=True)


@pytest.fixture
def loaded(small: "Loaded") -> "Loaded":
    return small


@pytest.fixture(params=["slots", "paged"])
def make(request: pytest.FixtureRequest, loaded: "Loaded") -> Iterator[Make]:
    with making(request.param, loaded) as make:
        yield make
