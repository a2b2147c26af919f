"""Make a folder once, whatever number of processes asks for it at the same moment."""

import fcntl
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def make_once(target: Path, make: Callable[[Path], None]) -> None:
    """Have `make` fill the folder `target` if it is not there; the others wait for the one that makes it.

    It is filled beside the target and renamed: a folder under its final name is always complete.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(target.with_name(f"{target.name}.lock")):
        if not target.is_dir():
            _make_beside(target, make)


@contextmanager
def _only_one(lock_file: Path) -> Iterator[None]:
    """Hold a lock between processes; the system frees it when its holder dies."""
    with lock_file.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make_beside(target: Path, make: Callable[[Path], None]) -> None:
    for left_over in target.parent.glob(f"{target.name}.partial-*"):  # of a process that died; we hold the lock
        shutil.rmtree(left_over)
    partial = Path(tempfile.mkdtemp(prefix=f"{target.name}.partial-", dir=target.parent))
    try:
        make(partial)
        partial.chmod(0o755)  # mkdtemp made it 0700, and another user may run the worker
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
