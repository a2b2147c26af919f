"""The same mailboxes on three nodes: every promise of theirs holds there too."""

from tests.app.test_mailbox import *  # noqa: F403
