"""Where a process of a test installation dies on purpose: exactly between two steps of the path.

The death is SIGKILL: nothing is flushed and nothing cleaned up. Orders are files in the data folder: whichever process
comes to the point first takes one by renaming it, and nobody obeys it again after the restart. Only an installation
whose settings say that it is for tests looks for orders, and its platform must be on this very machine.
"""

import os
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

Point = Literal[
    "accept/ack",
    "accept/wake",
    "lease/execute",
    "execute/commit",
    "commit/wake",
    "check/call",
    "call/mark",
    "create/update",
    "update/finish",
]
Act = Literal["pass", "die", "freeze"]  # frozen: until somebody sends SIGCONT
POINTS: Final[tuple[Point, ...]] = get_args(Point)
HOW: Final = (
    f"write it as commit/wake, or commit/wake@3 for the third passage, or commit/wake*2 for two deaths; with commas "
    f"between several; the points are {', '.join(POINTS)}"
)
_ORDER = re.compile(r"([a-z]+/[a-z]+)(?:@([1-9][0-9]?))?(?:\*([1-9][0-9]?))?")
_SIGNALS: Final = {"die": signal.SIGKILL, "freeze": signal.SIGSTOP}

_folder: Path | None = None  # of the orders; None: this is no test installation


@dataclass(frozen=True, slots=True)
class Order:
    """What shall happen at a point: at which passage first, and at how many in a row."""

    point: Point
    passage: int = 1
    times: int = 1


@dataclass(frozen=True, slots=True)
class Obeyed:
    """What a process did at a point."""

    point: Point
    act: Act
    pid: int


def crashpoint(point: Point) -> None:
    """Die here, if this is a test installation and a test has ordered it."""
    if _folder is not None:
        _obey(_folder, point)


def obey_orders(data_dir: Path) -> None:
    """From now on this process looks for orders. Settings.test_installation must have allowed it."""
    global _folder
    _folder = _folder_of(data_dir)


def give_order(data_dir: Path, order: Order, act: Act = "die") -> None:
    """Have something happen at the next passages of a point, in any process of this data folder."""
    folder = _folder_of(data_dir)
    folder.mkdir(mode=0o700, exist_ok=True)
    passing: list[Act] = ["pass"] * (order.passage - 1)
    for number, one in enumerate([*passing, *[act] * order.times]):
        (folder / f"{_name(order.point)}.{number:03}.{one}").touch()


def give_orders_once(data_dir: Path, orders: Sequence[Order]) -> None:
    """Give the orders of the settings, but none for a point that had one on this data folder before."""
    folder = _folder_of(data_dir)
    for order in orders:
        if not any(folder.glob(f"{_name(order.point)}.*")):
            give_order(data_dir, order)


def obeyed(data_dir: Path) -> list[Obeyed]:
    """What was done at the points, in no order."""
    found = (path.name.split(".") for path in _folder_of(data_dir).glob("*.done.*"))
    by_name = {_name(point): point for point in POINTS}
    return [Obeyed(by_name[name], act, int(pid)) for name, _, act, _, pid in found]  # type: ignore[arg-type]


def read_orders(text: str) -> tuple[Order, ...]:
    """Read `point`, `point@passage` and `point*times`, with commas between. Raises ValueError: how it is written."""
    return tuple(_read_order(part.strip()) for part in text.split(",") if part.strip())


def _read_order(text: str) -> Order:
    found = _ORDER.fullmatch(text)
    if found is None or found[1] not in POINTS:
        raise ValueError(HOW)
    return Order(found[1], int(found[2] or 1), int(found[3] or 1))


def _obey(folder: Path, point: Point) -> None:
    for path in sorted(folder.glob(f"{_name(point)}.*")):
        if ".done." in path.name:
            continue
        try:
            path.rename(path.with_name(f"{path.name}.done.{os.getpid()}"))
        except FileNotFoundError:
            continue  # another thread or process took it
        if (act := path.suffix[1:]) in _SIGNALS:
            os.kill(os.getpid(), _SIGNALS[act])
        return


def _folder_of(data_dir: Path) -> Path:
    return data_dir / "crashpoints"


def _name(point: Point) -> str:
    return point.replace("/", "-")
