"""Message, Attachment, Reply: frozen, the only things that cross a process.

What is stored carries `v`; an unknown newer version is left for a newer worker.
"""

from typing import Literal
from urllib.parse import quote

import msgspec

from app.errors import MalformedFrame

VERSION = 1
CONVERSATION_LIMIT_BYTES = 256

# What the message brings. "unsupported": a kind that we do not read yet; the person gets a short honest sentence.
Kind = Literal["text", "picture", "unsupported"]
ReplyKind = Literal["answer", "notice", "apology"]
Role = Literal["system", "user", "assistant"]


class Address(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a reply goes. It travels with the message, so that no table of open conversations is needed."""

    channel: str  # "dingtalk"
    robot: str  # the platform's code of the robot that was spoken to
    chat: str  # the platform's own id of the conversation, whole
    group: bool
    person: str = ""  # the person's id in the organisation; empty for people outside it
    nick: str = ""
    webhook: str = ""
    webhook_expires_at: float = 0.0  # seconds since the epoch


class Attachment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something to download before it can be read."""

    kind: Literal["picture", "audio", "video", "file"]
    code: str  # what the platform exchanges for an address to download from
    name: str = ""


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that a person sent."""

    id: str  # "dingtalk:<robotCode>:<msgId>", the key against double delivery
    conversation: str  # see conversation_id()
    kind: Kind
    sent_at: float  # seconds since the epoch, by the platform's clock
    address: Address
    text: str = ""
    attachments: tuple[Attachment, ...] = ()
    platform_kind: str = ""  # the platform's own word for the kind, for logs and honest sentences
    late: bool = False  # a replay of a dead letter: the answer says what it is about
    v: int = VERSION


class Reply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that a person will see. Its id is the id of the message that it answers."""

    id: str
    conversation: str
    address: Address
    text: str
    kind: ReplyKind = "answer"
    answers: tuple[str, ...] = ()  # ids of all messages that this closes, when there are several
    stopped: bool = False
    v: int = VERSION


class Said(msgspec.Struct, frozen=True):
    """One line of what was said before."""

    role: Role
    text: str


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation's context as it is stored."""

    lines: tuple[Said, ...]
    v: int = VERSION


def conversation_id(channel: str, robot: str, chat: str, sender: str) -> str:
    """The id of a conversation: (bot, chat, sender), each part percent-encoded and whole.

    Raises:
        MalformedFrame: a part is empty, or the id is longer than 256 bytes.
    """
    parts = (channel, robot, chat, sender)
    if not all(parts):
        raise MalformedFrame("a conversation needs a channel, a robot, a chat and a sender")
    conversation = ":".join(quote(part, safe="$=+@!*") for part in parts)
    if len(conversation) > CONVERSATION_LIMIT_BYTES:
        raise MalformedFrame(f"conversation id of {len(conversation)} bytes, at most {CONVERSATION_LIMIT_BYTES}")
    return conversation
