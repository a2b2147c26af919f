"""Dead letters: what was given up, why and where it broke; kept to be looked at, and to be put back by an operator.

A record is written by the same commit that closes what it is about. It holds the person's words, as the message or the
reply does; nobody sees them who does not ask.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from app import keys
from app.errors import MalformedFrame, NoSuchLetter, NotReplayed
from app.keys import Box
from app.mailbox import DEAD_LETTERS_KEPT_S
from app.message import VERSION, Message, Reply
from app.redis import Store
from app.scripts import Arg
from app.wire import decode_message, decode_reply, encode

NAME_LENGTH = 12
SHORTEST_NAME = 4
UNLIMITED = 2**31
_Content = TypeVar("_Content", Message, Reply)
_REPLAY = re.compile(r"#replay(\d+)$", re.ASCII)


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """Why something was given up. `message` or `reply` is its body as it was stored."""

    id: str
    reason: str
    error: str = ""  # the class of what was raised, or the platform's own code
    where: str = ""  # the lines of code on the way there; never what was raised, which may quote the person
    message: str = ""
    reply: str = ""
    v: int = VERSION

    @property
    def box(self) -> Box:
        return "outbox" if self.reply else "inbox"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A dead letter in the record. `name` is short and safe in a shell."""

    name: str
    shard: int
    at: float  # seconds since the epoch
    letter: DeadLetter
    raw: bytes  # as it is stored


def seal(letter: DeadLetter) -> bytes:
    """A dead letter as it is stored."""
    return msgspec.json.encode(letter)


class Letters:
    """The dead letters of all conversations. Every method raises StoreUnavailable when the record does not answer."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def all(self) -> list[Kept]:
        """Every dead letter, the newest last."""
        kept = [letter for shard in range(keys.SHARDS) for letter in self._of_shard(shard)]
        return sorted(kept, key=lambda one: (one.at, one.name))

    def find(self, wanted: str) -> Kept:
        """The letter of this name, or of a beginning of it that no other has, or about the message with this id.

        Raises:
            NoSuchLetter: there is none, or there are several.
        """
        found = [one for one in self.all() if wanted in (one.name, one.letter.id) or _begins(one.name, wanted)]
        if not found:
            raise NoSuchLetter(f"{wanted}: no dead letter; `switchyard dead-letters list` shows those that there are")
        if len(found) > 1:
            raise NoSuchLetter(f"{wanted}: {len(found)} dead letters, say which: {', '.join(o.name for o in found)}")
        return found[0]

    def drop(self, kept: Kept) -> None:
        """Forget a letter. It is no error if it is gone already."""
        name = keys.dead(kept.shard)
        self.store.at(name, lambda server: server.zrem(name, kept.raw))

    def put_back(self, kept: Kept, content: _Content, queue: str, *, limit: int = UNLIMITED, text: str = "") -> str:
        """Put a letter's content at the end of its mailbox under a new id, and take the letter out, in one step.

        The id is that of the letter with `#replay1` behind it, or the next number that nobody has. `limit`: how many
        may wait in that mailbox; `text`: what stands in it from now on, if not the same. Returns the id.

        Raises:
            NotReplayed: the conversation is full.
            NoSuchLetter: somebody else has put it back, or dropped it.
        """
        first, number = _REPLAY.sub("", content.id), replays_of(content.id)
        while True:
            number += 1
            new = msgspec.structs.replace(content, id=f"{first}#replay{number}", text=text or content.text)
            match self._replay(kept, new, queue, limit):
                case b"DONE":
                    return new.id
                case b"FULL":
                    raise NotReplayed(f"{kept.name}: its conversation is full; replay it when others are answered")
                case b"GONE":
                    raise NoSuchLetter(f"{kept.name}: it was replayed or dropped meanwhile")

    def _replay(self, kept: Kept, new: Message | Reply, queue: str, limit: int) -> bytes:
        box, conversation = kept.letter.box, new.conversation
        shard = keys.shard_of(conversation)
        names = [
            keys.items(box, conversation),
            keys.state(box, conversation),
            keys.due(box, shard),
            keys.waiting(box, shard),
            keys.dead(shard),
            keys.seen(conversation, new.id),
        ]
        args: list[Arg] = [conversation, new.id, queue, encode(new), kept.raw, kept.name]
        args += [round(DEAD_LETTERS_KEPT_S * 1000), limit, VERSION]
        answer: bytes = self.store.run("replay", names, args)
        return answer

    def _of_shard(self, shard: int) -> list[Kept]:
        name = keys.dead(shard)
        flat: Any = self.store.at(name, lambda server: server.zrange(name, 0, -1, withscores=True))
        return [_kept(raw, shard, score / 1000) for raw, score in flat]


def message_of(kept: Kept) -> Message:
    """The message of a letter, marked as one that is answered late. Raises NotReplayed if it cannot be read."""
    message = _readable(decode_message, kept, kept.letter.message)
    return msgspec.structs.replace(message, late=True)


def reply_of(kept: Kept) -> Reply:
    """The reply of a letter. Raises NotReplayed if it cannot be read."""
    return _readable(decode_reply, kept, kept.letter.reply)


def replays_of(id: str) -> int:
    """The number of the replay that an id names; 0 if it is none."""
    found = _REPLAY.search(id)
    return int(found.group(1)) if found else 0


def _readable(decode: Callable[[str], _Content], kept: Kept, body: str) -> _Content:
    try:
        content = decode(body)
    except MalformedFrame as exc:
        raise NotReplayed(f"{kept.name}: what it holds cannot be read, so nobody can be answered") from exc
    if content.v > VERSION or keys.shard_of(content.conversation) != kept.shard:
        raise NotReplayed(f"{kept.name}: it was written by another version, replay it with that one")
    return content


def _begins(name: str, wanted: str) -> bool:
    return len(wanted) >= SHORTEST_NAME and name.startswith(wanted)


def _kept(raw: bytes, shard: int, at: float) -> Kept:
    name = hashlib.sha256(raw).hexdigest()[:NAME_LENGTH]
    try:
        letter = msgspec.json.decode(raw, type=DeadLetter)
    except msgspec.MsgspecError:  # by a newer version, say: it can still be seen and dropped
        letter = DeadLetter(id="", reason="this record cannot be read")
    return Kept(name=name, shard=shard, at=at, letter=letter, raw=raw)
