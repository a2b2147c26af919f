"""Messages for tests."""

import itertools
import time

from app.message import Address, Attachment, Kind, Message, Reply, conversation_id

_numbers = itertools.count(1)


def an_address(chat: str = "cidOps=", person: str = "staff042") -> Address:
    return Address(channel="dingtalk", robot="bot", chat=chat, group=False, person=person, nick="Ann")


def a_message(
    id: str = "", *, text: str = "hello", chat: str = "cidOps=", sender: str = "$:ann==", sent_at: float | None = None
) -> Message:
    """A text message of one person; a new id each time unless one is given."""
    kind: Kind = "text"
    return Message(
        id=id or f"dingtalk:bot:m{next(_numbers)}",
        conversation=conversation_id("dingtalk", "bot", chat, sender),
        kind=kind,
        text=text,
        sent_at=time.time() if sent_at is None else sent_at,
        address=an_address(chat),
    )


def a_picture(code: str = "DC-1", *, sender: str = "$:ann==") -> Message:
    message = a_message(sender=sender)
    return Message(
        id=message.id,
        conversation=message.conversation,
        kind="picture",
        sent_at=message.sent_at,
        address=message.address,
        attachments=(Attachment(kind="picture", code=code),),
    )


def a_reply(message: Message, text: str = "hi") -> Reply:
    return Reply(id=message.id, conversation=message.conversation, address=message.address, text=text)


def notices(message: Message) -> tuple[Reply, Reply]:
    return a_reply(message, "this conversation is full"), a_reply(message, "the house is full")
