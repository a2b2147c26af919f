"""A small disk for tests that fill it: a tmpfs of their own, gone afterwards.

Root may mount one; anybody else may in a namespace of their own, where a file of tests is run as a whole.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from tests.machine import lacking

MB = 1024 * 1024
NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")
BALLAST = "ballast"
LIMIT_S = 280


class SmallDisk:
    """A mounted disk, and what fills it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def free(self) -> int:
        """Bytes."""
        return shutil.disk_usage(self.folder).free

    def fill(self, leave: int, file: str = BALLAST) -> None:
        """Have no more than so many bytes free, by the size of this file, whatever else is written meanwhile."""
        with (self.folder / file).open("ab") as ballast:
            while (surplus := self.free - leave) > 0:
                try:
                    os.posix_fallocate(ballast.fileno(), ballast.seek(0, os.SEEK_END), surplus)
                except OSError:  # somebody wrote in between, so it is less
                    continue

    def make_room(self) -> None:
        (self.folder / BALLAST).unlink(missing_ok=True)


@contextmanager
def small_disk(folder: Path, size_mb: int) -> Iterator[SmallDisk]:
    """Mount a disk at this folder while the block runs. Skips the test where nobody may."""
    if not may_mount():
        if in_namespace("true"):
            pytest.skip("not root: it runs in a namespace, started by the last test of this file")
        lacking("the right to mount a small disk", "run the tests as root, or allow unprivileged user namespaces")
    folder.mkdir()
    _mount(folder, size_mb)
    try:
        yield SmallDisk(folder)
    finally:  # lazily: a process that is still ending may have its folder there
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def run_in_namespace(file: str, *, marker: str) -> None:
    """Run a file of tests where its disks can be mounted, if they cannot be here."""
    if may_mount():
        pytest.skip("the tests of this file ran as they are")
    if not in_namespace("true"):
        lacking("the right to mount a small disk", "run the tests as root, or allow unprivileged user namespaces")
    assert in_namespace(sys.executable, "-m", "pytest", "-m", marker, "-p", "no:cacheprovider", file)


@cache
def may_mount() -> bool:
    """Whether this user may mount a disk here; tried in a namespace that is gone at once."""
    return os.geteuid() == 0 and _ends_well("unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt")


def in_namespace(*command: str) -> bool:
    """Run a command where this user may mount; whether it was possible and ended well."""
    return _ends_well(*NAMESPACE, *command)


def _ends_well(*command: str) -> bool:
    try:
        return subprocess.run(command, stderr=subprocess.DEVNULL, timeout=LIMIT_S, check=False).returncode == 0
    except FileNotFoundError:
        return False


def _mount(folder: Path, size_mb: int) -> None:
    options = f"size={size_mb}m,mode=0700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
