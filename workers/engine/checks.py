"""What every engine refuses before it starts a request."""

import math

from app.errors import RequestRejected
from workers.engine.interface import Request

ROLES = ("system", "user", "assistant")


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
    """Raise RequestRejected if a parameter is out of range."""
    ranges = {
        "max_new_tokens": request.max_new_tokens >= 1,
        "temperature": math.isfinite(request.temperature) and request.temperature >= 0,
        "top_p": 0 < request.top_p <= 1,
        "top_k": request.top_k >= 0,
        "repetition_penalty": math.isfinite(request.repetition_penalty) and request.repetition_penalty > 0,
        "min_new_tokens": 0 <= request.min_new_tokens <= request.max_new_tokens,
        "stop": all(isinstance(stop, str) and stop for stop in request.stop),
        "seed": request.seed is None or 0 <= request.seed < 2**63,
        "deadline_s": request.deadline_s is None or not math.isnan(request.deadline_s),
    }
    for name, good in ranges.items():
        if not good:
            raise RequestRejected(f"{name}: out of range")


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
