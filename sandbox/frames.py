"""The frames that the platform pushes, and the reading of what comes back. Pure: text in, text out."""

from dataclasses import dataclass
from typing import Any

import msgspec

BOT_MESSAGES = "/v1.0/im/bot/messages/get"
CARD_CALLBACK = "/v1.0/card/instances/callback"

Json = dict[str, Any]


def encode(value: Any) -> str:
    """JSON as text, compact."""
    return msgspec.json.encode(value).decode()


def frame(kind: str, topic: str, data: str, *, message_id: str, now_ms: int, headers: Json | None = None) -> str:
    """One downstream frame. `data` is a JSON document as a string; `kind` is SYSTEM, EVENT or CALLBACK."""
    return encode(
        {
            "specVersion": "1.0",
            "type": kind,
            "headers": {
                **(headers or {}),
                "contentType": "application/json",
                "messageId": message_id,
                "time": str(now_ms),
                "topic": topic,
            },
            "data": data,
        }
    )


@dataclass(frozen=True, slots=True)
class Ack:
    """What a client sends, the only thing that it ever sends."""

    code: int
    message_id: str
    data: Any


class BadAck(ValueError):
    """The client sent something that is no ack; the text says what is wrong."""


def read_ack(text: str | bytes | None) -> Ack:
    """Read one upstream frame strictly. Raises BadAck."""
    if not isinstance(text, str):
        raise BadAck("not a text frame")
    try:
        body = msgspec.json.decode(text)
    except msgspec.DecodeError as exc:
        raise BadAck(f"not JSON: {exc}") from exc
    if not isinstance(body, dict) or not isinstance(body.get("headers"), dict):
        raise BadAck("no object with headers")
    code, headers, data = body.get("code"), body["headers"], body.get("data")
    if not isinstance(code, int) or isinstance(code, bool):
        raise BadAck("code is no number")
    if not isinstance(headers.get("messageId"), str):
        raise BadAck("headers.messageId is no string")
    if headers.get("contentType") != "application/json":
        raise BadAck("headers.contentType is not application/json")
    return Ack(code=code, message_id=headers["messageId"], data=_inner(data))


def _inner(data: object) -> Any:
    if data is None or data == "":
        return None
    if not isinstance(data, str):
        raise BadAck("data is no string")
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError as exc:
        raise BadAck("data holds no JSON") from exc
