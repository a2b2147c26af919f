"""How a message is accepted: the limits, the call of the script `accept`, and what it answers."""

import enum
from dataclasses import dataclass
from typing import Any

from app import keys
from app.keys import Box
from app.message import VERSION, Message, Reply
from app.scripts import Arg
from app.wire import encode

GRACE_S = 2.0  # a waiting head is due so long after its last wake-up


class Outcome(enum.Enum):
    """What became of an accepted message."""

    WAKE = "WAKE"  # stored; the conversation was idle
    WAIT = "WAIT"  # stored; something else of this conversation comes first
    REPEAT = "REPEAT"  # this id was seen before
    FULL = "FULL"  # not stored; the person is told once


@dataclass(frozen=True, slots=True)
class Accepted:
    """The outcome, and the queue to wake if there is one."""

    outcome: Outcome
    wake: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long things are kept and how many of them. Times in seconds."""

    lease_s: float = 10.0
    dedupe_s: float = 86_400.0
    inbox_limit: int = 20
    waiting_limit: int = 10_000
    stale_after_s: float = 900.0
    context_s: float = 1800.0
    suspect_rest_s: float = 2.0  # a suspect whose holder vanished once more; twice as long the next time


def acceptance(
    box: Box, message: Message, queue: str, *, limits: Limits, room: int, notices: tuple[Reply, Reply]
) -> tuple[list[str], list[Arg]]:
    """Keys and arguments of the script `accept`.

    `room` is how many more messages the message's shard may hold; `notices` are what the person is told when the
    conversation is full, and when the house is.
    """
    conversation = message.conversation
    shard = keys.shard_of(conversation)
    names = [
        keys.items(box, conversation),
        keys.state(box, conversation),
        keys.due(box, shard),
        keys.seen(conversation, message.id),
        keys.waiting(box, shard),
        keys.items("outbox", conversation),
        keys.due("outbox", shard),
        keys.waiting("outbox", shard),
        keys.state("inbox", conversation),
        keys.state("outbox", conversation),
    ]
    args: list[Arg] = [
        conversation,
        message.id,
        ms(message.sent_at),
        queue,
        encode(message),
        ms(limits.dedupe_s),
        limits.inbox_limit,
        room,
        ms(GRACE_S),
        encode(notices[0]),
        encode(notices[1]),
        "control" if box == "control" else "",
        VERSION,
    ]
    return names, args


def read_accepted(answer: Any) -> Accepted:
    return Accepted(Outcome(answer[0].decode()), answer[1].decode())


def ms(seconds: float) -> int:
    """Milliseconds, as the scripts count."""
    return round(seconds * 1000)
