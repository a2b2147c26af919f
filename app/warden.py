"""The lock of a data folder, and the warden that keeps it for the moments after a supervisor was killed.

The warden inherits the lock and one end of a socket. Over the socket come the pidfds of all processes; its end means
that the supervisor is gone. Then the warden ends the processes, the embedded servers last, and with itself the lock,
so that a new supervisor never meets the old one's processes on the same data. It imports nothing heavy.
"""

import array
import contextlib
import fcntl
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from app.errors import AlreadyRunning

CHILD, SERVER = b"c", b"s"  # what kind of process a pidfd is of
CHILDREN_S = 3.0  # from SIGTERM to SIGKILL
SERVERS_S = 3.0
_POLL_S = 0.05


def take_lock(data_dir: Path, *, wait_s: float, say: Callable[[str], None]) -> int:
    """Lock the data folder for as long as the descriptor that it returns, or a copy of it, is open.

    If the last supervisor is dead, its warden may still be cleaning up: wait for that.

    Raises:
        AlreadyRunning: another supervisor holds the folder; the text names its pid.
    """
    descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline, said = time.monotonic() + wait_s, False
    while not _locked(descriptor):
        holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
        if _runs(holder) or time.monotonic() > deadline:
            os.close(descriptor)
            raise AlreadyRunning(f"a supervisor (pid {holder}) holds {data_dir}; `switchyard ps` shows its processes")
        if not said:
            say(f"waiting up to {wait_s:.0f} s for the processes of the last supervisor (pid {holder}) to end")
            said = True
        time.sleep(_POLL_S)
    name = f"{os.getpid()}\n".encode()
    os.pwrite(descriptor, name, 0)  # over the old one, and cut then: that works on a full disk too
    os.ftruncate(descriptor, len(name))
    return descriptor


def hand_over(warden: socket.socket, kind: bytes, pidfd: int) -> None:
    """Tell the warden of one process. A warden that just died is told again when its successor starts."""
    with contextlib.suppress(OSError):
        socket.send_fds(warden, [kind], [pidfd])


def watch(supervisor: socket.socket) -> dict[int, bytes]:
    """Wait until the supervisor is gone; the processes that it leaves, pidfd -> kind."""
    known: dict[int, bytes] = {}
    while True:
        readable, _, _ = select.select([supervisor.fileno(), *known], [], [])
        for ended in set(readable) & set(known):
            del known[ended]
            os.close(ended)
        if supervisor.fileno() in readable:
            kind, pidfd = _receive(supervisor)
            if not kind:
                return known
            known[pidfd] = kind


def end(processes: Iterable[int], *, grace_s: float) -> None:
    """SIGTERM to all, and SIGKILL to what is left after `grace_s`."""
    left = set(processes)
    for stop, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 1.0)):
        for pidfd in left:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, stop)
        left = _after(left, wait_s)


def main(lock: int, supervisor: int) -> None:
    """Guard the lock until the supervisor is gone and everything that it started has ended."""
    for stop in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(stop, signal.SIG_IGN)  # they are meant for the supervisor; this ends after it
    os.set_inheritable(lock, False)
    left = watch(socket.socket(fileno=supervisor))
    end((pidfd for pidfd, kind in left.items() if kind == CHILD), grace_s=CHILDREN_S)
    end((pidfd for pidfd, kind in left.items() if kind == SERVER), grace_s=SERVERS_S)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _runs(pid: str) -> bool:
    """Whether the process lives; one that was killed and not yet collected by its parent does not."""
    if not pid.isdigit():
        return False
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def _receive(supervisor: socket.socket) -> tuple[bytes, int]:
    size = array.array("i").itemsize
    kind, ancillary, _, _ = supervisor.recvmsg(1, socket.CMSG_LEN(size))
    for level, number, data in ancillary:
        if (level, number) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            return kind, int.from_bytes(data[:size], sys.byteorder)
    return b"", -1


def _after(pidfds: set[int], wait_s: float) -> set[int]:
    """Those that still live after `wait_s`; returns earlier when none does."""
    left, deadline = set(pidfds), time.monotonic() + wait_s
    while left and (remaining := deadline - time.monotonic()) > 0:
        ended, _, _ = select.select(left, [], [], remaining)
        left -= set(ended)
    return left


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
