"""The newest text of a running answer, written only by the turn that holds the lease."""

from app import keys
from app.errors import LeaseLost
from app.mailbox import Lease
from app.message import Address
from app.redis import Store
from app.wire import encode

KEPT_MS = 600_000


class Drafts:
    """Drafts of all conversations; each replaces the one before it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def write(self, lease: Lease, address: Address, text: str) -> int:
        """Keep the newest full text; its version, rising from 1 for each message.

        Raises:
            LeaseLost: somebody else answers this message now.
        """
        names = [keys.state("inbox", lease.conversation), keys.draft(lease.conversation)]
        version = self._store.run("draft", names, [lease.token, lease.id, text, encode(address), KEPT_MS])
        if not version:
            raise LeaseLost(lease.conversation)
        return int(version)
