"""The same census of three nodes."""

from tests.app.test_status import *  # noqa: F403
