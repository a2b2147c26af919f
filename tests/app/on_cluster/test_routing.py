"""The same dispatcher before three nodes."""

from tests.app.test_routing import *  # noqa: F403
