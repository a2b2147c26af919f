"""How much the engine `paged` does at once: by halves less when the device had no memory, by halves more when it rests.

The library fixes both numbers when it begins, so a change of them is a new beginning. Numbers only: no torch.
"""

from collections.abc import Callable

SMALLEST_STEP = 16  # tokens
WELL_S = 300.0  # so long there must have been memory enough before it does more again


class Load:
    """`step_tokens`: the most that one step computes. `slots`: the most requests at the same time."""

    def __init__(self, *, slots: int, step_tokens: int, clock: Callable[[], float]) -> None:
        self.slots, self.step_tokens = slots, step_tokens
        self._most_slots, self._most_step_tokens = slots, step_tokens
        self._clock = clock
        self._changed_s = clock()

    @property
    def smallest_step(self) -> bool:
        return self.step_tokens <= SMALLEST_STEP

    def less(self) -> bool:
        """There was no memory. False: it is the least already."""
        if self.smallest_step and self.slots == 1:
            return False
        self._change(max(1, self.slots // 2), min(self.step_tokens, max(SMALLEST_STEP, self.step_tokens // 2)))
        return True

    def more(self) -> bool:
        """Nobody is here. True: there was memory enough for so long that it may do more."""
        slots = min(self._most_slots, 2 * self.slots)
        step_tokens = min(self._most_step_tokens, 2 * self.step_tokens)
        if (slots, step_tokens) == (self.slots, self.step_tokens) or self._clock() - self._changed_s < WELL_S:
            return False
        self._change(slots, step_tokens)
        return True

    def _change(self, slots: int, step_tokens: int) -> None:
        self.slots, self.step_tokens = slots, step_tokens
        self._changed_s = self._clock()
