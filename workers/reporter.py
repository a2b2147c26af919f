"""Tells the record once a second what this process's engine counts, on a connection of its own.

A record that does not answer costs that reading and no more: the next one says all of it again, since counts only grow.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import structlog

from app.engines import tell_engine
from app.errors import StoreUnavailable
from app.redis import Store

INTERVAL_S = 1.0
PATIENCE_S = 1.0
SPEED_READINGS = 6  # the speed is that of the last five seconds
log = structlog.get_logger()


class Countable(Protocol):
    """A reading of an engine, such as workers.engine.figures.Figures."""

    @property
    def generated_tokens(self) -> int: ...

    def plain(self) -> dict[str, Any]: ...


class Reporter:
    """One per text worker; its thread ends with the process. `worker`: a name that the process's successor has too."""

    def __init__(
        self,
        url: str,
        worker: str,
        figures: Callable[[], Countable],
        *,
        interval_s: float = INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = Store(url, deadline_s=PATIENCE_S, timeout_s=PATIENCE_S, connections=2)
        self._worker = worker
        self._figures = figures
        self._interval_s = interval_s
        self._clock = clock
        self._past: deque[tuple[float, int]] = deque(maxlen=SPEED_READINGS)
        self._silent = False  # the record did not answer the last time
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._report_all, name="reporter", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(2 * PATIENCE_S)
        self._store.close()

    def report(self) -> None:
        """Tell it once. Of a record that is silent for longer the log has one line, and one when it answers again."""
        figures = self._figures()
        plain = figures.plain() | {"tokens_per_s": self._speed(figures.generated_tokens)}
        try:
            tell_engine(self._store, self._worker, plain)
        except StoreUnavailable as exc:
            if not self._silent:
                log.warning("the engine's figures cannot be told; trying again", reason=type(exc).__name__)
            self._silent = True
            return
        if self._silent:
            log.info("the engine's figures are told again")
        self._silent = False

    def _report_all(self) -> None:
        self.report()
        while not self._closed.wait(self._interval_s):
            self.report()

    def _speed(self, tokens: int) -> float:
        """Tokens a second since the oldest reading that is remembered; 0 at the first one."""
        self._past.append((self._clock(), tokens))
        (since_s, before), (now_s, now) = self._past[0], self._past[-1]
        return round((now - before) / (now_s - since_s), 1) if now_s > since_s else 0.0
