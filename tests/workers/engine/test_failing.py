"""The tests of `failing`, on the CPU in float32, for `slots` and `paged`."""

from tests.workers.engine.failing import *  # noqa: F403  # the tests are run here
