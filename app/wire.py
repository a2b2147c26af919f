"""Messages and replies as they are stored: JSON by msgspec, versioned. What cannot be read is a clear error."""

from typing import TypeVar

import msgspec

from app.errors import MalformedFrame
from app.message import VERSION, Address, Message, Remembered, Reply, Said

_Value = TypeVar("_Value")

_encoder = msgspec.json.Encoder()
_message = msgspec.json.Decoder(Message)
_reply = msgspec.json.Decoder(Reply)
_address = msgspec.json.Decoder(Address)
_context = msgspec.json.Decoder(Remembered)


def encode(value: Message | Reply | Address | Remembered) -> bytes:
    return _encoder.encode(value)


def decode_message(body: str | bytes) -> Message:
    return _decoded(_message, body)


def decode_reply(body: str | bytes) -> Reply:
    return _decoded(_reply, body)


def decode_address(body: str | bytes) -> Address:
    return _decoded(_address, body)


def decode_context(body: str | bytes) -> tuple[Said, ...]:
    remembered = _decoded(_context, body)
    if remembered.v > VERSION:
        raise MalformedFrame(f"stored context of version {remembered.v}, this program reads {VERSION}")
    return remembered.lines


def _decoded(decoder: msgspec.json.Decoder[_Value], body: str | bytes) -> _Value:
    try:
        return decoder.decode(body)
    except msgspec.MsgspecError as exc:
        raise MalformedFrame(f"stored value cannot be read: {exc}") from exc
