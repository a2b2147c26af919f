"""The same sweeper over three nodes."""

from tests.app.test_sweeper import *  # noqa: F403
