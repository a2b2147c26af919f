"""The disk under the embedded record: how much of it must stay free, and whether so much is."""

import asyncio
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from app.errors import StoreFull

MB = 1024 * 1024
LOOK_AGAIN_S = 1.0  # a message is small beside what stays free, so not each one asks


@dataclass(frozen=True, slots=True)
class Reserve:
    """What stays free of a disk: the larger one counts. It lets a full record drain, which writes too."""

    least_bytes: int = 200 * MB
    least_share: float = 0.05

    def of(self, size_bytes: int) -> int:
        """In bytes, of a disk of this size."""
        return max(self.least_bytes, round(self.least_share * size_bytes))

    @property
    def to_start_bytes(self) -> int:
        """What a server needs to start: less, or one that was killed while it drained would not come back."""
        return self.least_bytes // 4


@dataclass(frozen=True, slots=True)
class Space:
    """A disk at one moment, in bytes."""

    size: int
    free: int
    reserve: int

    @property
    def short(self) -> bool:
        return self.free < self.reserve


@dataclass(frozen=True, slots=True)
class Disk:
    """The disk that a folder is on."""

    folder: Path
    reserve: Reserve

    def look(self) -> Space:
        """How it is now. Raises OSError."""
        size, _, free = shutil.disk_usage(self.folder)
        return Space(size=size, free=free, reserve=self.reserve.of(size))


class DiskGuard:
    """Refuses while the disk is short. For one event loop; a disk of nobody (None) is never short."""

    def __init__(self, disk: Disk | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._disk = disk
        self._clock = clock
        self._looking = asyncio.Lock()
        self._looked_at = float("-inf")
        self._space: Space | None = None

    async def require_room(self) -> None:
        """Look at the disk, at most once a second.

        Raises:
            StoreFull: less is free than must stay free, or the disk does not answer.
        """
        if self._disk is None:
            return
        async with self._looking:  # in a thread: a disk that hangs must not stop the loop
            if self._clock() - self._looked_at >= LOOK_AGAIN_S:
                self._space = await asyncio.to_thread(_look, self._disk)
                self._looked_at = self._clock()
        if self._space is None:
            raise StoreFull("disk", "the disk of the record cannot be asked")
        if self._space.short:
            raise StoreFull("disk", f"the disk of the record is full: {in_mb(self._space.free)} MB are free")


def in_mb(number_of_bytes: int) -> int:
    """Whole megabytes, for people."""
    return number_of_bytes // MB


def _look(disk: Disk) -> Space | None:
    try:
        return disk.look()
    except OSError:
        return None
