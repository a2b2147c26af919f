"""The tests of `computing`, on the CPU in float32, for `slots` and `paged`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.workers.engine.computing import *  # noqa: F403  # the tests are run here
from tests.workers.engine.making import Make, making

if TYPE_CHECKING:
    from workers.engine.loading import Loaded


@pytest.fixture
def loaded(small: "Loaded") -> "Loaded":
    return small


@pytest.fixture(params=["slots", "paged"])
def make(request: pytest.FixtureRequest, loaded: "Loaded") -> Iterator[Make]:
    with making(request.param, loaded) as make:
        yield make
