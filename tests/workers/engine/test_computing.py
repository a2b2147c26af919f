"""The tests of `computing`, on the CPU in float32, for `slots` and `paged`."""

from tests.workers.engine.computing import *  # noqa: F403  # the tests are run here
