"""The same round trips, one to each of three nodes."""

from tests.app.test_redis import *  # noqa: F403
