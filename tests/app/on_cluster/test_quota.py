"""The month's calls over three nodes, one of which keeps the count."""

from tests.app.test_quota import *  # noqa: F403
