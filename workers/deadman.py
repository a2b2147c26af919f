"""Ends a process in which no Python runs any more, as when a skill holds the interpreter inside a C library.

No thread of ours can do that: each would wait for the interpreter. The standard library's fault handler has a thread
that does not; unless it is put off in time it writes where every thread stands to the log, and ends the process. What
the process held is somebody else's by then.
"""

import faulthandler
import sys

LEASES, MORE_S = 4.0, 3.0  # longer than a renewal takes whose record does not answer


class Deadman:
    """The alarm of this process. `put_off` it again and again while there is work; it is off before the first time."""

    def __init__(self, lease_s: float) -> None:
        self.limit_s = LEASES * lease_s + MORE_S
        self._on = False

    def start(self) -> None:
        """There is work from now on."""
        if not self._on:
            self.put_off()

    def put_off(self) -> None:
        self._on = True
        faulthandler.dump_traceback_later(self.limit_s, exit=True, file=sys.__stderr__ or sys.stderr)

    def stop(self) -> None:
        """There is no work: nothing of anybody's can hang."""
        if self._on:
            self._on = False
            faulthandler.cancel_dump_traceback_later()
