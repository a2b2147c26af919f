"""When this process will be gone: it begins no call that it could not finish by then and nobody may repeat."""

import time
from collections.abc import Callable

from app.errors import Drained


class Leaving:
    """The end of this process, as far as it is known. Safe from many threads, and from a signal handler."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._ends_at = float("inf")

    def within(self, seconds: float) -> None:
        """The process may be killed from then on. What was said before counts if that is sooner."""
        self._ends_at = min(self._ends_at, self._monotonic() + seconds)

    def left_s(self) -> float:
        """How long it will still be there; infinite as long as nobody said anything."""
        return max(0.0, self._ends_at - self._monotonic())

    def check(self, call_s: float) -> None:
        """See that a call of at most `call_s` ends before the process does. Raises Drained."""
        if self.left_s() < call_s:
            raise Drained("this process may be gone before the call has ended")
