"""The names of everything that the record holds. A tag names a shard, so that one script's keys share a slot."""

from typing import Literal
from zlib import crc32

SHARDS = 16

Box = Literal["inbox", "outbox", "control"]


def shard_of(conversation: str) -> int:
    """The shard of a conversation: crc32 mod 16, for ever (the record keeps the number of shards)."""
    return crc32(conversation.encode()) % SHARDS


def items(box: Box, conversation: str) -> str:
    return f"{box}:{{{shard_of(conversation)}}}:{conversation}"


def state(box: Box, conversation: str) -> str:
    return f"state:{{{shard_of(conversation)}}}:{box}:{conversation}"


def due(box: Box, shard: int) -> str:
    return f"due:{{{shard}}}:{box}"


def waiting(box: Box, shard: int) -> str:
    return f"waiting:{{{shard}}}:{box}"


def seen(conversation: str, message_id: str) -> str:
    return f"seen:{{{shard_of(conversation)}}}:{message_id}"


def context(conversation: str) -> str:
    return f"context:{{{shard_of(conversation)}}}:{conversation}"


def draft(conversation: str) -> str:
    return f"draft:{{{shard_of(conversation)}}}:{conversation}"


def cards(shard: int) -> str:
    return f"cards:{{{shard}}}"


def dead(shard: int) -> str:
    return f"dead:{{{shard}}}"


def token(shard: int) -> str:
    return f"token:{{{shard}}}"


def made_for(shard: int) -> str:
    """Hash: version and number of shards of the record. Every shard knows it, so any node of a cluster can tell."""
    return f"switchyard:{{{shard}}}"


def waited(name: str) -> str:
    """Beside a name of the same shard; see lua/waited.lua."""
    return f"waited:{name[name.index('{') : name.index('}') + 1]}"


def calls(month: str) -> str:
    return f"calls:{month}"


def listening(machine: str) -> str:
    """There while that machine's listener has a connection to the platform, and for 10 s after that."""
    return f"listening:{machine}"


SWEEPER = "sweeper"
ENGINES = "engines"  # what each engine says of itself, for a few seconds
BROKER = "broker"  # the life of the broker that the sweeper saw last, its age is in its time to live
