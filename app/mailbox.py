"""A mailbox: one conversation's ordered list with a lease. The record of what was promised.

A conversation has an inbox (Messages waiting for a turn), an outbox (Replies waiting for the sender) and a control
inbox (stop requests). All three are this code. Every step is one Lua script in `lua/`; key names, types and errors
are settled here and nowhere else.
"""

import contextlib
import enum
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from app import keys
from app.acceptance import GRACE_S, Accepted, Limits, acceptance, ms, read_accepted
from app.census import Census, count_items, take_census
from app.errors import LeaseLost, StoreUnavailable
from app.keys import Box
from app.message import VERSION, Address, Message, Reply
from app.redis import Store
from app.scripts import Arg
from app.wire import decode_address, decode_message, decode_reply, encode

Counts = Literal["", "raised", "vanished", "hung"]  # what an attempt that was given back is counted as

MAX_FORWARDS = 3
DEAD_LETTERS_KEPT_S = 14 * 86_400
DEAD_LETTERS_PER_SHARD = 10_000 // keys.SHARDS
SWEEP_AT_MOST = 500
BUSY_GRACE_S = 30.0  # ... if its queue is not empty
SUSPECT_AFTER = 2  # vanished holders: until then it is the lot of all who were in a killed process
GIVEN_UP_AFTER = 5  # ... so it was a suspect, alone among suspects, three times


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The head of a mailbox in one holder's hand."""

    box: Box
    conversation: str
    token: int
    id: str
    body: str
    age_s: float  # since it was accepted
    raised: int
    vanished: int
    forwards: int
    note: str
    stale: tuple[str, ...]  # ids of the leading messages that waited too long

    @property
    def suspect(self) -> bool:
        """Its holders vanished twice: perhaps because of it."""
        return self.vanished >= SUSPECT_AFTER

    @property
    def condemned(self) -> bool:
        """Its holders vanished too often to try once more."""
        return self.vanished >= GIVEN_UP_AFTER

    def message(self) -> Message:
        return decode_message(self.body)

    def reply(self) -> Reply:
        return decode_reply(self.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftLease:
    """An empty outbox, leased to show the newest text of a running answer."""

    box: Box
    conversation: str
    token: int
    id: str  # of the message that is being answered
    turn: int  # the token of the turn that wrote it
    version: int
    text: str
    address: Address


class Idle(enum.Enum):
    """Why there is nothing to do: somebody else has it, it is empty, or a newer worker must read it."""

    BUSY = "BUSY"
    EMPTY = "EMPTY"
    NEWER = "NEWER"


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """The head belongs to another queue: wake that one."""

    queue: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """What to wake after a commit; empty strings: nothing."""

    next_queue: str
    send: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Remember:
    """What becomes of the conversation's context with a commit."""

    what: Literal["keep", "save", "forget"] = "keep"
    context: bytes = b""


class Mailbox:
    """The inboxes, the outboxes or the control inboxes of all conversations.

    Every method raises StoreUnavailable when the record does not answer in time; every one may be repeated.
    """

    def __init__(self, store: Store, box: Box, limits: Limits, *, reads: int = VERSION) -> None:
        """`reads`: the newest version of items that this program reads; newer ones are left for a newer worker."""
        self.box = box
        self._reads = reads
        self.limits = limits
        self._store = store

    def accept(
        self, message: Message, queue: str, *, notices: tuple[Reply, Reply], room: int | None = None
    ) -> Accepted:
        """Put a message into its conversation's mailbox, once, in the order of sending."""
        free = self.limits.waiting_limit if room is None else room
        names, args = acceptance(self.box, message, queue, limits=self.limits, room=free, notices=notices)
        return read_accepted(self._store.run("accept", names, args))

    def lease(self, conversation: str, queue: str) -> Lease | DraftLease | Idle | Elsewhere:
        """Take the head, if it belongs to this queue. An empty outbox is leased for its draft, if there is one."""
        shard = keys.shard_of(conversation)
        request = f"{os.getpid()}:{uuid.uuid4().hex}"  # whoever finds a lost process finds what it held
        names = [*self._place(conversation), keys.token(shard), keys.draft(conversation)]
        args: list[Arg] = [
            conversation,
            queue,
            request,
            ms(self.limits.lease_s),
            self._reads,
            ms(self.limits.stale_after_s),
            "draft" if self.box == "outbox" else "",
            SUSPECT_AFTER,
            GIVEN_UP_AFTER,
            ms(self.limits.suspect_rest_s),
        ]
        try:
            answer = self._store.run("lease", names, args, patient=False)  # the sweeper wakes it again
        except StoreUnavailable:
            self._untake(conversation, request)
            raise
        word = answer[0].decode()
        if word == "LEASED":
            return self._leased(conversation, answer[1:])
        if word == "DRAFT":
            return self._drafted(conversation, answer[1:])
        return Elsewhere(answer[1].decode()) if word == "ELSEWHERE" else Idle(word)

    def commit(
        self,
        lease: Lease,
        *,
        reply: Reply | None = None,
        remember: Remember | None = None,
        dead_letter: bytes = b"",
        closes: Sequence[str] = (),
    ) -> Committed:
        """Count the work: pop the head (or all of `closes`), save the context, append the reply to the outbox.

        Raises:
            LeaseLost: somebody else has it; the result is to be thrown away.
        """
        conversation, shard = lease.conversation, keys.shard_of(lease.conversation)
        names = [
            *self._place(conversation),
            keys.waiting(self.box, shard),
            keys.items("outbox", conversation),
            keys.due("outbox", shard),
            keys.waiting("outbox", shard),
            keys.context(conversation),
            keys.draft(conversation),
            keys.dead(shard),
            keys.cards(shard),
            keys.state("outbox", conversation),
        ]
        remember = remember or Remember()
        args: list[Arg] = [
            conversation,
            lease.token,
            ms(GRACE_S),
            reply.id if reply else "",
            encode(reply) if reply else "",
            remember.what,
            remember.context,
            ms(self.limits.context_s),
            dead_letter,
            ms(DEAD_LETTERS_KEPT_S),
            DEAD_LETTERS_PER_SHARD,
            "close card" if self.box == "outbox" and reply is None else "",
            VERSION,
            *(closes or (lease.id,)),
        ]
        answer = self._settled(self._store.run("commit", names, args))
        return Committed(next_queue=answer[1].decode(), send=answer[2].decode())

    def forward(self, lease: Lease, message: Message, queue: str) -> str | None:
        """Replace the head by `message` (same id, same place) for another queue; the queue to wake.

        None if it was forwarded three times already: the lease is still held then.

        Raises:
            LeaseLost: somebody else has it.
        """
        args: list[Arg] = [lease.conversation, lease.token, ms(GRACE_S), queue, encode(message), MAX_FORWARDS]
        answer = self._settled(self._store.run("forward", self._place(lease.conversation), args))
        return None if answer[0] == b"TOO_MANY" else str(answer[1].decode())

    def release(
        self,
        lease: Lease | DraftLease,
        *,
        after_s: float = 0.0,
        counts: Counts = "",
        shown: int = 0,
    ) -> str:
        """Give the head back, due again after `after_s`; the queue to wake now, or ''.

        `counts`: what it is counted as; "hung" is as much as to vanish as a suspect.
        `shown`: the version of the draft that the platform has now.

        Raises:
            LeaseLost: somebody else has it.
        """
        shard = keys.shard_of(lease.conversation)
        names = [*self._place(lease.conversation), keys.draft(lease.conversation), keys.cards(shard)]
        args: list[Arg] = [
            lease.conversation,
            lease.token,
            ms(GRACE_S),
            ms(after_s),
            counts,
            lease.id if shown else "",
            shown,
            SUSPECT_AFTER,
        ]
        return str(self._settled(self._store.run("release", names, args))[1].decode())

    def mark(self, lease: Lease | DraftLease, note: str = "", *, card: Literal["", "open", "gone"] = "") -> None:
        """Write down how far the holder is, and whether there is a card, for whoever comes after a crash.

        Raises:
            LeaseLost: somebody else has it.
        """
        conversation = lease.conversation
        names = [*self._place(conversation)[:2], keys.cards(keys.shard_of(conversation))]
        if not self._store.run("mark", names, [lease.token, note, lease.id, card]):
            raise LeaseLost(conversation)

    def renew(self, leases: Sequence[Lease | DraftLease]) -> list[tuple[bool, bool] | None]:
        """Lengthen leases in one round trip; for each: (still held, shall stop). Not repeated.

        None: the node of a cluster that has this one did not answer.
        """
        calls: list[tuple[list[str], list[Arg]]] = [
            (self._place(held.conversation)[1:], [held.conversation, held.token, ms(self.limits.lease_s)])
            for held in leases
        ]
        answers = self._store.pipelined("renew", calls)
        return [None if answer is None else (bool(answer[0]), bool(answer[1])) for answer in answers]

    def check(self, lease: Lease | DraftLease) -> float:
        """For how many seconds a lease still holds, asked right before what cannot be undone. Raises LeaseLost."""
        args: list[Arg] = [lease.conversation, lease.token, ms(self.limits.lease_s)]
        left_ms = int(self._store.run("check", self._place(lease.conversation)[1:], args))
        if not left_ms:
            raise LeaseLost(f"the lease in the {self.box} is lost")
        return left_ms / 1000

    def overdue(self, shard: int, at_most: int) -> list[tuple[float, str]]:
        """(due since, conversation) of what is due in a shard, oldest first; seconds since the epoch."""
        flat = self._store.run("overdue", [keys.due(self.box, shard)], [at_most])
        return [(float(score) / 1000, name.decode()) for name, score in zip(flat[::2], flat[1::2], strict=True)]

    def sweep(
        self, shard: int, conversations: Sequence[str], *, filled: Sequence[str], look_again_s: float = BUSY_GRACE_S
    ) -> list[tuple[str, str]]:
        """(queue, conversation) to wake, of those that are due. `filled`: queues that are not empty yet."""
        names = [keys.due(self.box, shard), *(name for one in conversations for name in self._place(one)[:2])]
        graces = (ms(GRACE_S), ms(BUSY_GRACE_S), ms(look_again_s))
        args: list[Arg] = [*graces, " ".join(filled), uuid.uuid4().hex, *conversations]
        flat = [part.decode() for part in self._store.run("sweep", names, args)]
        return list(zip(flat[::2], flat[1::2], strict=True))

    def waiting(self) -> int:
        """How many items all mailboxes of this kind hold, those in work included."""
        return count_items(self._store, self.box)

    def census(self) -> Census:
        """What waits in all mailboxes of this kind, what is in work, and for how long the oldest has waited."""
        return take_census(self._store, self.box)

    def card_open(self, conversation: str, message_id: str) -> bool:
        """Whether the record says that a message's card was opened."""
        name = keys.cards(keys.shard_of(conversation))
        return bool(self._store.at(name, lambda server: server.hexists(name, message_id)))

    def _untake(self, conversation: str, request: str) -> None:
        """Give back what too few replicas had: nobody holds it, and its message must not be blamed for that."""
        if self._store.waits_for_replicas:
            with contextlib.suppress(StoreUnavailable):  # then it expires, and counts as vanished
                self._store.pipelined("untake", [(self._place(conversation), [conversation, request, ms(GRACE_S)])])

    def _place(self, conversation: str) -> list[str]:
        shard = keys.shard_of(conversation)
        return [keys.items(self.box, conversation), keys.state(self.box, conversation), keys.due(self.box, shard)]

    def _settled(self, answer: Any) -> Any:
        if answer[0] == b"LOST":
            raise LeaseLost(f"the lease in the {self.box} is lost")
        return answer

    def _leased(self, conversation: str, answer: Any) -> Lease:
        token, message_id, body, age_ms, raised, vanished, forwards, note, *stale = answer
        return Lease(
            box=self.box,
            conversation=conversation,
            token=int(token),
            id=message_id.decode(),
            body=body.decode(),
            age_s=int(age_ms) / 1000,
            raised=int(raised),
            vanished=int(vanished),
            forwards=int(forwards),
            note=note.decode(),
            stale=tuple(name.decode() for name in stale),
        )

    def _drafted(self, conversation: str, answer: Any) -> DraftLease:
        token, message_id, turn, version, text, address = answer
        return DraftLease(
            box=self.box,
            conversation=conversation,
            token=int(token),
            id=message_id.decode(),
            turn=int(turn),
            version=int(version),
            text=text.decode(),
            address=decode_address(address),
        )
