"""What a server's refusal means: the error table. Pure.

| the server says | it means |
|---|---|
| 400, 413, 422 for the length | `TooLong`: a shorter prompt may do |
| 400, 413, 422 else | `RequestRejected`: no server will ever run it |
| 401, 403 | the setting of the key is wrong |
| 404, 400 with a word on the model | it is not there: a setting, or an adapter that another server may have |
| 3xx, 404, 405, other 4xx | the setting of the address is wrong |
| 408, 425, 429, 502, 503, 504, 529 | busy; `Retry-After` says how long |
| other 5xx, an answer that cannot be read | it failed, perhaps because of this very request |
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, Literal

from app.errors import RequestRejected

Blame = Literal["down", "busy", "slow", "setting", "absent", "failed"]

RETRY_AFTER_S: Final = (0.1, 60.0)  # what we believe of a server's own number
_DEFAULT_RETRY_S: Final = 1.0
_BAD_REQUEST: Final = (400, 413, 422)
_BUSY: Final = (408, 425, 429, 502, 503, 504, 529)
_REASON_CHARS: Final = 200
_MESSAGE_CHARS: Final = 2000  # what is read of a server's message: it may quote a whole prompt
_QUOTED: Final = 8  # so many characters of a message in a row are a quotation
_WORD: Final = re.compile(r"[A-Za-z][\w.-]{0,63}")
_TOO_LONG: Final = re.compile(
    r"context.{0,3}length|context.{0,3}size|context.{0,3}window|too long|too many tokens|is longer than", re.IGNORECASE
)
_NO_MODEL: Final = re.compile(r"\bmodel\b.*\bnot (?:exist|found)|\bis pinned to\b", re.IGNORECASE | re.DOTALL)
_UNKNOWN: Final = re.compile(
    r"unsupported|unknown|unrecogni[sz]ed|unexpected|extra|not (?:supported|permitted|allowed)", re.IGNORECASE
)
_LIMIT: Final = (
    re.compile(r"maximum context length (?:is|of) (\d{1,9})", re.IGNORECASE),
    re.compile(r"context length \((\d{1,9})", re.IGNORECASE),
    re.compile(r"context size \((\d{1,9})", re.IGNORECASE),
)
_PROMPT: Final = (
    re.compile(r"(\d{1,9})(?: tokens)? (?:in|from) the (?:input )?messages", re.IGNORECASE),
    re.compile(r"(\d{1,9}) input tokens", re.IGNORECASE),
    re.compile(r"input \((\d{1,9}) tokens", re.IGNORECASE),
    re.compile(r"resulted in (\d{1,9}) tokens", re.IGNORECASE),
)


class Failure(Exception):
    """A server did not answer, and no token had come: another one may."""

    def __init__(self, blame: Blame, reason: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.blame = blame
        self.retry_after_s = retry_after_s


class TooLong(Exception):
    """Prompt and answer are more than the server's model takes. Numbers of tokens where the server told them."""

    def __init__(self, limit_tokens: int | None, prompt_tokens: int | None) -> None:
        super().__init__("the prompt is too long")
        self.limit_tokens = limit_tokens
        self.prompt_tokens = prompt_tokens


class Unknown(Exception):
    """The server does not know a parameter of ours that it can do without, or calls it otherwise."""

    def __init__(self, parameter: str) -> None:
        super().__init__(parameter)
        self.parameter = parameter


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A server's error body, whatever its dialect."""

    message: str = ""
    kind: str = ""
    code: str = ""

    @property
    def denies_the_model(self) -> bool:
        """Whether it is about a model that is not there; transformers says so with 400."""
        return self.code == "model_not_found" or _NO_MODEL.search(self.message) is not None


def judge(status: int, said: Said, *, retry_after: str, texts: Iterable[str], adapter: bool) -> Exception:
    """What to raise for an answer other than 200. `texts`: what people wrote, and no reason may quote."""
    if status in (401, 403):
        return Failure("setting", f"SWITCHYARD_OPENAI_API_KEY: the server refuses it ({status})")
    if status in (404, *_BAD_REQUEST) and said.denies_the_model:
        if adapter:
            return Failure("absent", "adapter: the server has no model of this name")
        return Failure("setting", f"SWITCHYARD_MODEL: the server has no model of this name ({status})")
    if status in _BAD_REQUEST:
        return _judge_bad_request(status, said, texts)
    if status in _BUSY:
        return Failure("busy", f"busy ({status})", retry_after_s=retry_after_s(retry_after, datetime.now(UTC)))
    if status >= 500:
        return Failure("failed", f"failed with {status}")
    return Failure("setting", f"SWITCHYARD_OPENAI_BASE_URLS: there is no chat completion at this address ({status})")


def _judge_bad_request(status: int, said: Said, texts: Iterable[str]) -> Exception:
    """A message that quotes somebody proves nothing but its length: whoever wrote it chose the words."""
    texts = list(texts)
    quotes = any(_quotes(said.message, text) for text in texts)
    if status == 413 or said.code == "context_length_exceeded" or _TOO_LONG.search(said.message):
        return TooLong(None, None) if quotes else TooLong(_number(_LIMIT, said.message), _number(_PROMPT, said.message))
    for parameter in () if quotes else ("stream_options", "max_tokens"):
        if re.search(rf"\b{parameter}\b", said.message) and _UNKNOWN.search(said.message):
            return Unknown(parameter)
    return RequestRejected(f"the model server refuses it ({status}): {reason(said, texts)}")


def read_error(body: bytes | object) -> Said:
    """The error in a body: OpenAI's and vLLM's, vLLM's older one, FastAPI's, or none that we know."""
    if isinstance(body, bytes):
        try:
            body = json.loads(body)
        except (ValueError, RecursionError):
            return Said()
    if not isinstance(body, dict):
        return Said()
    found = body.get("error", body)
    if isinstance(found, str):
        return Said(message=found[:_MESSAGE_CHARS])
    fields: dict[str, Any] = found if isinstance(found, dict) else {}
    message = fields.get("message", fields.get("detail", ""))
    return Said(
        message=(message if isinstance(message, str) else json.dumps(message))[:_MESSAGE_CHARS],
        kind=_plain(fields.get("type")),
        code=_plain(fields.get("code")),
    )


def status_of(said: Said) -> int:
    """The status that an error inside a stream stands for; 500 if it tells none."""
    return int(said.code) if re.fullmatch(r"[45]\d\d", said.code) else 500


def reason(said: Said, texts: Iterable[str]) -> str:
    """The server's reason, if it quotes nobody; else its code. Servers like to repeat what they refuse."""
    message = " ".join(said.message.split())[:_REASON_CHARS]
    plain = message.isascii() and "\\u" not in message and not any(_quotes(message, text) for text in texts)
    known = ", ".join(filter(None, (said.kind, said.code)))
    return message if message and plain else known or "no reason that can be shown"


def _quotes(message: str, text: str) -> bool:
    """Whether a message repeats a run of a text; a short one whole."""
    text = " ".join(text.split())
    if len(text) < _QUOTED:
        return bool(text) and text in message
    return any(message[at : at + _QUOTED] in text for at in range(max(0, len(message) - _QUOTED + 1)))


def retry_after_s(header: str, now: datetime) -> float:
    """Seconds out of a Retry-After header, in either of its forms, within what we believe; 1 s if there is none."""
    least, most = RETRY_AFTER_S
    try:
        wanted = float(header) if header.strip().replace(".", "", 1).isdigit() else _until(header, now)
    except (ValueError, TypeError, OverflowError):
        wanted = _DEFAULT_RETRY_S
    return min(max(wanted, least), most)


def _until(date: str, now: datetime) -> float:
    when = parsedate_to_datetime(date)
    return (when.replace(tzinfo=when.tzinfo or UTC) - now).total_seconds()


def _number(patterns: Iterable[re.Pattern[str]], message: str) -> int | None:
    found = next((match for pattern in patterns if (match := pattern.search(message))), None)
    return int(found.group(1)) if found else None


def _plain(value: object) -> str:
    """A code as a word or a number; empty if it is anything else, which may quote somebody."""
    text = str(value) if isinstance(value, str | int) else ""
    return text if _WORD.fullmatch(text) or text.isdigit() else ""
