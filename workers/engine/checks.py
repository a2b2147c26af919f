"""What every engine refuses before it starts a request."""

import math
from typing import Final

from app.errors import RequestRejected
from workers.engine.interface import Request

ROLES = ("system", "user", "assistant")
_MOST: Final = 2**31 - 1
_STOPS, _STOP_CHARS = 64, 1000
_LONG_S: Final = 1e9
_SECONDS: Final = "a number of seconds"


def check_request(request: Request) -> None:
    """Raise RequestRejected, with the field's name, if no engine could run this."""
    check_messages(request.messages)
    check_sampling(request)
    if request.adapter is not None:
        raise RequestRejected("adapter: not with this engine")


def check_messages(messages: tuple[tuple[str, str], ...]) -> None:
    """Raise RequestRejected if there is nothing to answer or a role is unknown."""
    if not messages:
        raise RequestRejected("messages: empty")
    for role, text in messages:
        if role not in ROLES or not isinstance(text, str):
            raise RequestRejected(f"messages: each is a role of {ROLES} and a text")


def check_sampling(request: Request) -> None:
    """Raise RequestRejected, with what would be right, if a parameter is out of range.

    Beyond these ranges float32 overflows, and a draw of such numbers would be no draw.
    """
    right = {
        "max_new_tokens": (_whole(request.max_new_tokens, 1, _MOST), f"1 to {_MOST}"),
        "temperature": (request.temperature == 0 or _number(request.temperature, 0.001, 1000), "0, or 0.001 to 1000"),
        "top_p": (_number(request.top_p, 0, 1) and request.top_p > 0, "above 0, to 1"),
        "top_k": (_whole(request.top_k, 0, _MOST), f"0 to {_MOST}"),
        "repetition_penalty": (_number(request.repetition_penalty, 0.01, 100), "0.01 to 100"),
        "min_new_tokens": (_whole(request.min_new_tokens, 0, _MOST), f"0 to {_MOST}"),
        "stop": (_texts(request.stop), f"at most {_STOPS} texts of 1 to {_STOP_CHARS} characters"),
        "seed": (request.seed is None or _whole(request.seed, 0, 2**63 - 1), "0 to 2**63 - 1"),
        "deadline_s": (
            request.deadline_s in (None, math.inf) or _number(request.deadline_s, -_LONG_S, _LONG_S),
            "seconds",
        ),
        "priority": (_whole(request.priority, -1000, 1000), "-1000 to 1000"),
    }
    for name, (good, what) in right.items():
        if not good:
            raise RequestRejected(f"{name}: out of range; {what}")
    if request.min_new_tokens > request.max_new_tokens:
        raise RequestRejected("min_new_tokens: out of range; at most max_new_tokens")


def _whole(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _number(value: object, least: float, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def _texts(value: object) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) <= _STOPS
        and all(isinstance(text, str) and 0 < len(text) <= _STOP_CHARS for text in value)
    )


def check_plain(request: Request, *, adapters: bool = False) -> None:
    """Raise RequestRejected if something is asked for that only `slots` does: nobody shall think that it was done.

    `adapters`: this engine has some too.
    """
    asked = {
        "repetition_penalty": request.repetition_penalty != 1,
        "min_new_tokens": request.min_new_tokens > 0,
        "processors": bool(request.processors),
        "adapter": request.adapter is not None and not adapters,
    }
    for name, wanted in asked.items():
        if wanted:
            raise RequestRejected(f"{name}: not with this engine")
