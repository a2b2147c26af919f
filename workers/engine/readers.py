"""The way back: tokens, results and errors to those who wait. What a reader does wrong ends its own request alone."""

import logging
from collections.abc import Callable

from app.errors import EngineStopped, SwitchyardError
from workers.engine.interface import Finish
from workers.engine.sequence import Sequence

log = logging.getLogger(__name__)

READER_FAILED = "the reader of this request failed"


class Readers:
    """For the engine's thread. `remove(sequence)` frees what the engine holds for it; it is called before any end."""

    def __init__(self, eos: frozenset[int], remove: Callable[[Sequence], None]) -> None:
        self._eos, self._remove = eos, remove

    def give(self, sequence: Sequence, token: int) -> bool:
        """Add one token; False: the request ended with it."""
        try:
            reason = sequence.take(token, self._eos)
        except Exception:
            log.exception("reader failed")
            self.fail(sequence, EngineStopped(READER_FAILED))
            return False
        if reason is not None:
            self.leave(sequence, reason)
        return reason is None

    def leave(self, sequence: Sequence, reason: Finish) -> None:
        """End it with what it has."""
        self._remove(sequence)
        try:
            sequence.finish(reason)
        except Exception:
            log.exception("reader failed")
            self.fail(sequence, EngineStopped(READER_FAILED))

    def fail(self, sequence: Sequence, error: SwitchyardError) -> None:
        """End it with an error."""
        sequence.spoiled = True
        self._remove(sequence)
        sequence.course.end("failed")
        try:
            sequence.handle.fail(error)
        except Exception:
            log.exception("reader failed")
