"""Requests and waits that several tests of the engine use."""

import time
from collections.abc import Callable

from workers.engine.interface import Handle, Request


def ask(text: str, *, max_new_tokens: int = 8, **more: object) -> Request:
    """A request of one user message."""
    return Request(messages=(("user", text),), max_new_tokens=max_new_tokens, **more)  # type: ignore[arg-type]


def first_piece(handle: Handle) -> str:
    """Wait until a request has begun to answer."""
    piece = handle.next_piece(30)
    assert piece is not None
    return piece


def until(condition: Callable[[], bool], *, deadline_s: float = 30.0) -> None:
    """Poll for a condition; fail the test if it does not come."""
    ends_at = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < ends_at, "the condition did not come in time"
        time.sleep(0.005)
