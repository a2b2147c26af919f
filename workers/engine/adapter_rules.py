"""What is set and what is said of LoRA adapters. No torch: who starts an engine imports it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MOST_RANK: Final = 256
_NAME: Final = re.compile(r"\w[\w.-]{0,63}")  # never a path


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterRules:
    """How much of adapters may be in memory at once, with those that were dropped and still run."""

    folder: Path | None = None  # its sub-folders are adapters, under their names
    most: int = 64
    most_bytes: int = 1 << 30  # as they are computed with; a file may be twice as large: float32 for half precision


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterStatus:
    """An adapter that a request may name."""

    name: str
    loaded: bool  # else it is loaded when it is first asked for
    bytes: int  # in memory
    running: int  # requests that have it


def is_adapter_name(name: str) -> bool:
    """Letters of any script, digits and `_`, then also `.` and `-`; at most 64."""
    return _NAME.fullmatch(name) is not None
