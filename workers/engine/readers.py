"""The way back: tokens, results and errors to those who wait. What a reader does wrong ends its own request alone."""

import logging
from collections.abc import Callable, Iterable

from app.errors import EngineStopped, SwitchyardError
from workers.engine.figures import End
from workers.engine.sequence import Sequence

log = logging.getLogger(__name__)

READER_FAILED = "the reader of this request failed"
ODD = "the engine cannot run this request"
TOO_LARGE = "the device has no memory for this prompt and its answer"


class Readers:
    """For the engine's thread, but for `tell`. `remove(sequence)` frees what the engine holds for it; it is called
    before any end of the engine's own."""

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

    def leave(self, sequence: Sequence, reason: End) -> None:
        """End it with what it has; "failed": with an error, for its reader failed."""
        if reason == "failed":
            self.fail(sequence, EngineStopped(READER_FAILED))
            return
        self._remove(sequence)
        try:
            sequence.finish(reason)
        except Exception:
            log.exception("reader failed")
            sequence.course.end("failed")
            _say(sequence, EngineStopped(READER_FAILED))

    def fail(self, sequence: Sequence, error: SwitchyardError) -> None:
        """End it with an error."""
        sequence.spoiled = True
        self._remove(sequence)
        self.tell([sequence], error)

    def tell(self, sequences: Iterable[Sequence], error: SwitchyardError) -> None:
        """Let them hear of an error that ends them, at once and from any thread; raises nothing.

        What the engine holds for them is freed when its own thread ends them too, which nobody hears any more.
        """
        for sequence in sequences:
            if sequence.course.end("failed"):
                _say(sequence, error)


def _say(sequence: Sequence, error: SwitchyardError) -> None:
    try:
        sequence.handle.fail(error)
    except Exception:
        log.exception("reader failed")
