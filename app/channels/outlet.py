"""What the sender asks of a platform. One implementation a platform; the order of tries is the sender's own."""

import math
from typing import Protocol

from app.message import Address


class Fence(Protocol):
    """What a call to a platform must pass: the lease under which it is made."""

    def check(self) -> None:
        """Ask, right before the call, whether the lease still holds. Raises LeaseLost, StoreUnavailable."""
        ...

    def ends_at(self) -> float:
        """By when the call must be over, by time.monotonic(). It moves on while the lease is renewed."""
        ...


class NoFence:
    """For calls that change nothing or belong to nobody's lease."""

    def check(self) -> None:
        """Nobody is asked."""

    def ends_at(self) -> float:
        return math.inf


class Outlet(Protocol):
    """A platform's way out. Blocking calls, safe from many threads, each bounded in time.

    Every method but `under`, `can_card` and `split` raises what its fence raises, and:
        PlatformBusy: refused for now, nothing was done; try again after `retry_after_s`.
        OutcomeUnknown: timed out or 5xx; may have been done. Repeat the same call with the same key.
        PlatformRefused: proved refusal; another way of sending may be tried.
    """

    def under(self, fence: Fence) -> "Outlet":
        """The same way out; each of its calls passes this fence right before it is made, and ends with it."""
        ...

    def can_card(self, address: Address) -> bool:
        """Whether a card can reach this address at all (a template is set, the person or the group is known)."""
        ...

    def open_card(self, card: str, address: Address, text: str) -> None:
        """Show a card with a first text. Idempotent by `card`: a second call for the same id shows nothing new."""
        ...

    def update_card(self, card: str, text: str, *, key: str) -> None:
        """Replace the text of an open card. Idempotent by `key`."""
        ...

    def finish_card(self, card: str, text: str, *, key: str) -> None:
        """Replace the text for the last time and end the typing. Idempotent by `key`; done twice is done."""
        ...

    def fail_card(self, card: str, text: str, *, key: str) -> None:
        """End a card that will not get its answer, with a short text. Idempotent by `key`; done twice is done."""
        ...

    def by_webhook(self, address: Address, text: str) -> None:
        """Send one message through the session's webhook. Not idempotent.

        PlatformRefused also if there is no webhook or it has expired.
        """
        ...

    def proactively(self, address: Address, text: str) -> None:
        """Send one message by the robot's own API. Not idempotent."""
        ...

    def split(self, text: str) -> list[str]:
        """Cut a text at the platform's limit for one message, on natural borders."""
        ...
