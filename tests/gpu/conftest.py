"""What runs wherever a GPU is: the small random model there, in the number type that is served. Where there is none,
each module says so in one line."""

from typing import TYPE_CHECKING

import pytest

from tests.workers.engine.conftest import CACHE
from tests.workers.engine.small import small_model
from workers.engine.demo_model import prepare_demo_model

if TYPE_CHECKING:
    from workers.engine.loading import Loaded


@pytest.fixture(scope="session")
def small() -> "Loaded":
    return small_model(prepare_demo_model(CACHE), device="cuda", dtype="float16")
