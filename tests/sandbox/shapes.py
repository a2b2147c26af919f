"""The recorded samples of the platform, what it means to have the shape of one, and waiting with a deadline."""

import json
import time
from pathlib import Path
from typing import Any

from sandbox.client import Event, SandboxClient

FOLDER = Path(__file__).parent.parent / "fixtures" / "dingtalk"


def sample(name: str) -> Any:
    """One sample by its file name."""
    return json.loads((FOLDER / f"{name}.json").read_text())


def shape(value: Any) -> Any:
    """Names and types, without the values; of a list, the shapes that occur."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        shapes: list[Any] = []
        for inner in map(shape, value):
            if inner not in shapes:
                shapes.append(inner)
        return shapes
    return type(value).__name__


def read(frame: Any) -> Any:
    """The data of a frame, decoded."""
    return json.loads(frame["data"])


def eventually(sandbox: SandboxClient, kind: str, count: int = 1, since: int = 0) -> list[Event]:
    """The events of a kind, as soon as there are so many; what there is after 10 s."""
    deadline = time.monotonic() + 10
    while len(found := sandbox.log(since, kind)) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    return found
