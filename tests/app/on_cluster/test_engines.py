"""The same engines before three nodes."""

from tests.app.test_engines import *  # noqa: F403
