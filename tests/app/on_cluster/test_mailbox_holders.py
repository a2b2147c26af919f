"""The same holders on three nodes."""

from tests.app.test_mailbox_holders import *  # noqa: F403
