"""How many calls this process makes to one API of the platform: a window, not a queue.

A bucket that refills lets through its content and its refill within the same second; the platform counts by the
second, so we count the calls of the last window instead.
"""

import threading
from collections import deque
from collections.abc import Callable

SLACK = 1.1  # calls travel for different times: what we space by a second may arrive within less
DRAFT_SHARE = 0.7  # the rest is kept for opening and finishing cards


class Limiter:
    """At most `calls_per_s`, in any window. Safe from many threads."""

    def __init__(self, calls_per_s: float, monotonic: Callable[[], float]) -> None:
        self._calls = max(1, int(calls_per_s))
        self._window_s = SLACK * self._calls / calls_per_s
        self._monotonic = monotonic
        self._granted: deque[float] = deque()  # times of the calls in the window, also of those promised for later
        self._paused_until = 0.0
        self._lock = threading.Lock()

    def take(self, *, share: float = 1.0, patience_s: float = 0.0) -> tuple[bool, float]:
        """Ask for one call, out of the first `share` of the window's calls.

        Returns:
            (True, seconds to wait before the call), at most `patience_s`; or (False, seconds until one is free).
        """
        with self._lock:
            now = self._monotonic()
            while self._granted and self._granted[0] <= now - self._window_s:
                self._granted.popleft()
            wait_s = self._wait_s(now, max(1, int(self._calls * share)))
            if wait_s > patience_s:
                return False, wait_s
            self._granted.append(now + wait_s)
            return True, wait_s

    def pause(self, seconds: float) -> None:
        """Grant nothing for a while: the platform said that it had too many."""
        with self._lock:
            self._paused_until = max(self._paused_until, self._monotonic() + seconds)

    def _wait_s(self, now: float, calls: int) -> float:
        free_at = self._granted[-calls] + self._window_s if len(self._granted) >= calls else now
        return max(0.0, free_at - now, self._paused_until - now)
