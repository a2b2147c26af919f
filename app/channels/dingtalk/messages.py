"""DingTalk frames: bytes in, a Frame or a Message out. Pure; nothing here waits, logs or connects.

Source: im-protocols, sections 2.3, 2.4 (frames and acks) and 3 (robot messages).
"""

import json
import math
from collections.abc import Mapping
from typing import Any, Final, Literal, NoReturn

import msgspec

from app.channels.dingtalk.large import TOO_LONG, without_content
from app.errors import MalformedFrame
from app.message import Address, Attachment, Kind, Message, conversation_id

ROBOT_TOPIC: Final = "/v1.0/im/bot/messages/get"
CARD_TOPIC: Final = "/v1.0/card/instances/callback"

# The data of an ack, already a JSON document (2.4).
ROBOT_OK: Final = '{"response":null}'
EVENT_OK: Final = '{"status":"SUCCESS","message":""}'
CARD_OK: Final = '{"response":{}}'

FRAME_LIMIT_BYTES: Final = 4_000_000
TEXT_LIMIT_BYTES: Final = 200_000
ID_LIMIT_BYTES: Final = 256
URL_LIMIT_BYTES: Final = 2_048
CODE_LIMIT_BYTES: Final = 4_096
WORD_LIMIT = 64  # characters of a nick or of the platform's word for a kind
CLOCK_AHEAD_S = 86_400.0  # a time of sending further in the future than this is nonsense

_ACK_WORDS = {200: "OK", 400: "bad request", 404: "no handler for this topic", 500: "handler failed"}
_SURROGATES = dict.fromkeys(range(0xD800, 0xE000))
_CONTROLS = dict.fromkeys((*range(32), 127))


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """One downstream frame. `data` is the JSON document that it carries, still a string; empty if there is none."""

    type: str  # "SYSTEM", "EVENT", "CALLBACK"
    topic: str
    id: str  # of this delivery: a redelivery has a new one; echoed in the ack
    data: str
    size_bytes: int


class _Headers(msgspec.Struct, rename="camel"):
    topic: str = ""
    message_id: str = ""


class _Wire(msgspec.Struct):
    type: str = ""
    headers: _Headers | None = None
    header: _Headers | None = None  # one page of the platform's documents spells it so
    data: Any = None


_wire_decoder = msgspec.json.Decoder(_Wire)
_any_decoder = msgspec.json.Decoder()
_encoder = msgspec.json.Encoder()


def decode(raw: str | bytes) -> Frame:
    """Read the outer frame; of one over the limit who sent it, not what was said. Raises MalformedFrame."""
    raw = raw.encode("utf-8", "surrogatepass") if isinstance(raw, str) else raw
    if len(raw) > FRAME_LIMIT_BYTES:
        raw = without_content(raw)
    try:
        wire = _read_wire(raw)
        headers = wire.headers or wire.header or _Headers()
        data = "" if wire.data is None else wire.data
        document = data if isinstance(data, str) else _encoder.encode(data).decode()
    except (ValueError, TypeError, RecursionError) as exc:
        raise MalformedFrame(f"frame that is no JSON object of the known shape: {type(exc).__name__}") from exc
    if len(headers.message_id) > 4 * ID_LIMIT_BYTES:
        raise MalformedFrame("frame with an absurd delivery id")
    return Frame(type=wire.type, topic=headers.topic, id=headers.message_id, data=document, size_bytes=len(raw))


def _read_wire(raw: bytes) -> _Wire:
    try:
        return _wire_decoder.decode(raw)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:  # half a surrogate pair, for instance, which the standard library lets through
        return msgspec.convert(_lenient(raw), _Wire)


def body(frame: Frame) -> Mapping[str, Any]:
    """The decoded data of a frame. Raises MalformedFrame if it is no JSON object."""
    try:
        document = _document(frame.data)
    except (ValueError, RecursionError) as exc:
        raise MalformedFrame(f"data that is no JSON: {type(exc).__name__}") from exc
    if not isinstance(document, dict):
        raise MalformedFrame(f"data that is no JSON object but {type(document).__name__}")
    return document


def _document(text: str) -> Any:
    try:
        return _any_decoder.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return _lenient(text)


def _lenient(raw: str | bytes) -> Any:
    return json.loads(raw, parse_constant=_no_constant)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def ack(frame: Frame, data: str, code: Literal[200, 400, 404, 500] = 200) -> str:
    """The upstream frame that acknowledges `frame`; `data` is a JSON document (2.4: a string holding JSON)."""
    headers = {"contentType": "application/json", "messageId": frame.id}
    upstream = {"code": code, "headers": headers, "message": _ACK_WORDS[code], "data": data}
    try:
        return _encoder.encode(upstream).decode()
    except UnicodeEncodeError:  # half a surrogate pair in what is echoed
        return json.dumps(upstream)


def parse(data: Mapping[str, Any], *, arrived_at: float, robot: str = "") -> Message | None:
    """Read one robot callback, decoded.

    Args:
        arrived_at: seconds since the epoch; the time of sending if the platform names none.
        robot: the robot's code, if the callback does not name it.

    Returns:
        None if there is nothing to answer: the robot's own words.

    Raises:
        MalformedFrame: an id is missing, of a wrong type, or absurdly long.
    """
    robot_code = _id(data, "robotCode") if data.get("robotCode") else robot
    chat, sender = _id(data, "conversationId"), _id(data, "senderId")
    if sender == data.get("chatbotUserId"):
        return None
    kind, text, attachments, platform_kind = _content(data, robot_code)
    return Message(
        id=f"dingtalk:{robot_code}:{_id(data, 'msgId')}",
        conversation=conversation_id("dingtalk", robot_code, chat, sender),
        kind=kind,
        sent_at=_sent_at(data.get("createAt"), arrived_at),
        address=_address(data, robot_code, chat),
        text=text,
        attachments=attachments,
        platform_kind=platform_kind,
    )


def _address(data: Mapping[str, Any], robot: str, chat: str) -> Address:
    return Address(
        channel="dingtalk",
        robot=robot,
        chat=chat,
        group=str(data.get("conversationType")) == "2",
        person=_id(data, "senderStaffId") if data.get("senderStaffId") else "",
        nick=_word(data.get("senderNick")),
        webhook=_code(data.get("sessionWebhook"), URL_LIMIT_BYTES),
        webhook_expires_at=_seconds(data.get("sessionWebhookExpiredTime")) or 0.0,
    )


_Content = tuple[Kind, str, tuple[Attachment, ...], str]


def _content(data: Mapping[str, Any], robot: str) -> _Content:
    platform_kind = _word(data.get("msgtype")) or "unknown"
    if platform_kind == "text" and (text := _text(data)) is not None:
        said = _without_robot(text, robot, data.get("chatbotUserId")).strip()
        if len(said.encode()) > TEXT_LIMIT_BYTES:
            return "unsupported", "", (), TOO_LONG
        return "text", said, (), platform_kind
    if platform_kind == "picture" and (code := _download_code(data)):
        return "picture", "", (Attachment(kind="picture", code=code),), platform_kind
    return "unsupported", "", (), platform_kind


def _text(data: Mapping[str, Any]) -> str | None:
    content = _object(data.get("text")).get("content")
    return _clean(content) if isinstance(content, str) else None


def _download_code(data: Mapping[str, Any]) -> str:
    content = _object(data.get("content"))
    codes = (_code(content.get(key), CODE_LIMIT_BYTES) for key in ("downloadCode", "pictureDownloadCode"))
    return next(filter(None, codes), "")


def _without_robot(text: str, robot: str, robot_user: object) -> str:
    """Drop mentions of the robot itself; other people's names stay as they were written."""
    for name in (robot_user, robot):
        if isinstance(name, str) and name:
            text = text.replace(f"@{name}", "")
    return text


def _object(value: object) -> Mapping[str, Any]:
    """An object, also one that came as a JSON string (3.3); empty for everything else."""
    if isinstance(value, str):
        try:
            value = _document(value)
        except (ValueError, RecursionError):
            return {}
    return value if isinstance(value, dict) else {}


def _id(data: Mapping[str, Any], key: str) -> str:
    value = data.get(key)
    if not isinstance(value, str) or not value:
        raise MalformedFrame(f"{key} is missing or no string")
    try:
        size = len(value.encode())
    except UnicodeEncodeError as exc:
        raise MalformedFrame(f"{key} is no Unicode") from exc
    if size > ID_LIMIT_BYTES or value != value.translate(_CONTROLS):
        raise MalformedFrame(f"{key} of {size} bytes, at most {ID_LIMIT_BYTES}, and no control characters")
    return value


def _sent_at(value: object, arrived_at: float) -> float:
    sent_at = _seconds(value)
    return sent_at if sent_at is not None and sent_at < arrived_at + CLOCK_AHEAD_S else arrived_at


def _seconds(value: object) -> float | None:
    """DingTalk counts milliseconds, as numbers or in strings; we count seconds. None if it is no time."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        seconds = float(value) / 1000
    except (ValueError, OverflowError):
        return None
    return seconds if math.isfinite(seconds) and seconds > 0 else None


def _word(value: object) -> str:
    return _clean(value).translate(_CONTROLS).strip()[:WORD_LIMIT] if isinstance(value, str) else ""


def _code(value: object, limit_bytes: int) -> str:
    """A string of the platform's that is used whole or not at all."""
    if not isinstance(value, str) or len(value) > limit_bytes:
        return ""
    cleaned = _clean(value)
    return cleaned if cleaned == value else ""


def _clean(text: str) -> str:
    """Without NUL bytes and halves of surrogate pairs: neither can be stored."""
    if "\0" in text:
        text = text.replace("\0", "")
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.translate(_SURROGATES)
    return text
