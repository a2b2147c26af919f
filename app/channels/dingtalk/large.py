"""A frame that is too large to be read whole: who sent it, and nothing of what was said.

It must be acknowledged, or the platform may deliver it for ever, and the person must hear that it was too long. So it
becomes a frame of a few hundred bytes, which goes the way of all others. Pure.
"""

from typing import Any, Final

import msgspec

from app.errors import MalformedFrame

TOO_LONG: Final = "text.too_long"  # our word for the kind of such a message
_TRAITS_LIMIT_BYTES: Final = 20_000

_TRAITS: Final = (
    "msgId",
    "createAt",
    "conversationId",
    "conversationType",
    "senderId",
    "senderStaffId",
    "senderNick",
    "chatbotUserId",
    "robotCode",
    "sessionWebhook",
    "sessionWebhookExpiredTime",
)
# The decoder passes over every other field without making anything of it.
_Traits = msgspec.defstruct("_Traits", [(name, Any, msgspec.UNSET) for name in _TRAITS])
_traits_decoder = msgspec.json.Decoder(_Traits)
_text_decoder = msgspec.json.Decoder(str)


class _Envelope(msgspec.Struct):
    type: str = ""
    headers: msgspec.Raw = msgspec.Raw(b"null")
    header: msgspec.Raw = msgspec.Raw(b"null")
    data: msgspec.Raw = msgspec.Raw(b"null")


_envelope_decoder = msgspec.json.Decoder(_Envelope)


def without_content(raw: bytes) -> bytes:
    """The same frame with the traits of its sender alone; without data if those cannot be read.

    Raises:
        MalformedFrame: it is no frame: there is no delivery id that could be acknowledged.
    """
    try:
        envelope = _envelope_decoder.decode(raw)
    except (ValueError, RecursionError) as exc:
        raise MalformedFrame(f"frame of {len(raw)} bytes that is no JSON object: {type(exc).__name__}") from exc
    small = {"type": envelope.type, "headers": envelope.headers, "header": envelope.header}
    return msgspec.json.encode({**small, "data": _traits_of(envelope.data)})


def _traits_of(data: msgspec.Raw) -> str:
    """The data of a robot message without its content; empty if it is none, or if a trait is the large part."""
    try:
        traits = msgspec.json.encode(_traits_decoder.decode(_text_decoder.decode(data)))
    except (ValueError, RecursionError):
        return ""
    if len(traits) > _TRAITS_LIMIT_BYTES:
        return ""
    return msgspec.json.encode({**msgspec.json.decode(traits), "msgtype": TOO_LONG}).decode()
