"""How often an engine may begin anew with the weights that it has. What is broken for good must end its process."""

from collections import deque
from collections.abc import Callable

from app.errors import EngineStopped

# A message is given up when the engine died under it three times, so one alone never uses these up.
RESTARTS = 3
RESTARTS_S = 60.0
BEGINS_ANEW = "the engine died and begins anew"  # what those in flight are told


class Restarts:
    """For one engine. `count`: how often it began anew."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.count = 0
        self._clock = clock
        self._deaths_s: deque[float] = deque(maxlen=RESTARTS)

    def note(self) -> None:
        """The engine died and shall begin anew.

        Raises:
            EngineStopped: it has done so too often of late.
        """
        now_s = self._clock()
        if len(self._deaths_s) == RESTARTS and now_s - self._deaths_s[0] < RESTARTS_S:
            raise EngineStopped(f"the engine died again after {RESTARTS} restarts")
        self._deaths_s.append(now_s)
        self.count += 1
