"""A process as its supervisor sees it, from the inside: it says when it is ready, and ends when the supervisor is gone.

The supervisor names two inherited pipe ends in the environment. They are no settings, so this is the one page beside
app/settings.py that touches `os.environ`. A process that was started by hand has neither, and all calls do nothing.
"""

import ctypes
import os
import signal
import threading
from collections.abc import Callable, Mapping

READY_FD = "SWITCHYARD_READY_FD"  # the process writes one line here when it can do its work
ALIVE_FD = "SWITCHYARD_ALIVE_FD"  # end of file here means that the supervisor is gone
REPLACE_ME = 75  # exit status (EX_TEMPFAIL): start the next one at once, I am worn out

# The supervisor stops everything, and this process, which goes on for now, must be gone within SWITCHYARD_DRAIN_S less
# SERVERS_ALONE_S. Of all signals one that does nothing where nobody listens to it.
EVERYTHING_STOPS = signal.SIGURG
SERVERS_ALONE_S = 1.2

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def ready() -> None:
    """Tell the supervisor, once, that this process can do its work."""
    descriptor = _inherited(READY_FD)
    if descriptor is None:
        return
    os.environ.pop(READY_FD)
    try:
        os.write(descriptor, b"ready\n")
    except BrokenPipeError:
        return  # nobody waits any more: the supervisor is gone, and ALIVE_FD says so
    finally:
        os.close(descriptor)


def end_with_parent(on_end: Callable[[], None]) -> None:
    """Have SIGTERM sent to this process when the supervisor dies, and `on_end` called in a thread of its own.

    Both, because the kernel's signal is lost if the supervisor died before this call, and the pipe is not.
    """
    descriptor = _inherited(ALIVE_FD)
    if descriptor is None:
        return
    os.set_inheritable(descriptor, False)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    threading.Thread(target=_wait_for_end, args=(descriptor, on_end), name="supervisor-gone", daemon=True).start()


def environment_of_child(extra: Mapping[str, str]) -> dict[str, str]:
    """The environment that a child gets: ours whole, and `extra` over it."""
    return {**os.environ, **extra}


def _inherited(variable: str) -> int | None:
    value = os.environ.get(variable, "")
    return int(value) if value.isdigit() else None


def _wait_for_end(descriptor: int, on_end: Callable[[], None]) -> None:
    while os.read(descriptor, 64):
        continue
    on_end()
