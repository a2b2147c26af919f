"""The fence of a sender: a call to a platform is made only under a lease that holds, and is over before that ends.

A process may sleep between any two lines of it, and another one has its work then. What it wakes up with is a clock
that went on: so the token is asked for right before the call, and the call ends by a time counted from before that.
"""

import time
from typing import Final

from app.errors import LeaseLost
from app.mailbox import Mailbox
from workers.leases import Holding

MARGIN_SHARE: Final = 0.1  # of the lease, and no more than:
LONGEST_MARGIN_S: Final = 1.0  # two clocks that run apart, and a request that is still on its way


class LeaseFence:
    """Implements app.channels.outlet.Fence for one lease in hand."""

    def __init__(self, holding: Holding, mailbox: Mailbox) -> None:
        self._holding = holding
        self._mailbox = mailbox
        self._margin_s = min(MARGIN_SHARE * mailbox.limits.lease_s, LONGEST_MARGIN_S)

    def check(self) -> None:
        """Ask whether the lease holds. Raises LeaseLost, StoreUnavailable."""
        holding = self._holding
        if holding.ending in ("lost", "hung"):
            raise LeaseLost(f"the lease in the {holding.lease.box} is {holding.ending}")
        asked_at = time.monotonic()
        holding.sure(asked_at + self._mailbox.check(holding.lease))

    def ends_at(self) -> float:
        """By when a call must be over: later and later while the lease is renewed, at once when it is lost."""
        lost = self._holding.ending == "lost"
        return float("-inf") if lost else self._holding.surely_until - self._margin_s
