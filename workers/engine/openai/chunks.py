"""One event of a streamed chat completion -> what it says. Pure.

Source: the OpenAI API reference, "The chat completion chunk object"; the fields of thought are vLLM's and SGLang's.
"""

import json
from dataclasses import dataclass
from typing import Any, Final

from workers.engine.openai.events import Unreadable
from workers.engine.text import HALF

DONE: Final = "[DONE]"
_THOUGHTS: Final = ("reasoning_content", "reasoning")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens, by the server's count."""

    prompt_tokens: int
    new_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """What one event adds to an answer."""

    text: str = ""
    thinks: bool = False  # tokens that are not shown: a sign of life
    finish: str = ""
    usage: Usage | None = None
    error: object = None  # the server's own words on what went wrong


def read_chunk(data: str) -> Chunk:
    """Read the data of one event that is not `[DONE]`. Raises Unreadable."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        raise Unreadable("an event is no JSON") from None
    if not isinstance(body, dict):
        raise Unreadable("an event is no JSON object")
    if body.get("error") is not None or body.get("object") == "error":
        return Chunk(error=body)
    choice = _choice(body.get("choices"))
    delta = _of(choice.get("delta"), dict, {})
    text = _of(delta.get("content"), str, "")
    thinks = any(_of(delta.get(name), str, "") for name in _THOUGHTS)
    return Chunk(text=text, thinks=thinks, finish=_of(choice.get("finish_reason"), str, ""), usage=_usage(body))


def _choice(choices: object) -> dict[str, Any]:
    """The first choice; the event with the usage has none."""
    offered = _of(choices, list, [])
    choice: dict[str, Any] = _of(offered[0], dict, {}) if offered else {}
    return choice


def _usage(body: dict[str, Any]) -> Usage | None:
    usage = _of(body.get("usage"), dict, {})
    counts = [usage.get(name, 0) for name in ("prompt_tokens", "completion_tokens")]
    if not usage or not all(type(count) is int and 0 <= count < 2**40 for count in counts):
        return None  # an answer is worth more than its count
    return Usage(prompt_tokens=counts[0], new_tokens=counts[1])


def _of(value: object, kind: type, default: Any) -> Any:
    """A value of this type; null and absent are the default. Raises Unreadable for any other."""
    if value is None:
        return default
    if not isinstance(value, kind):
        raise Unreadable("a field of an event has the wrong type")
    return value


class Halves:
    """Joins the two halves of a character that a server sent in two events.

    Servers that count text in UTF-16 cut emoji that way. What stays a half, or came as the mark of one, is left out.
    """

    def __init__(self) -> None:
        self._held = ""

    def add(self, text: str) -> str:
        """The whole characters that are complete now."""
        if self._held:
            text, self._held = self._held + text, ""
        if text.isascii():
            return text
        if "\ud800" <= text[-1] <= "\udbff":
            text, self._held = text[:-1], text[-1]
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "ignore").replace(HALF, "")
