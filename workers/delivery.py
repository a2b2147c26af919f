"""The story of one delivery: what waits in an outbox reaches the person once, by the best way that the platform takes.

A card first, then the session's webhook, then a proactive message. Another way is tried only when the platform proved
that it refused the one before; with an unknown outcome the same call is made again with the same key.
"""

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import msgspec
import structlog

from app.channels.outlet import Outlet
from app.crashpoints import crashpoint
from app.errors import (
    Drained,
    LeaseLost,
    MalformedFrame,
    NoCard,
    OutcomeUnknown,
    PlatformBusy,
    PlatformRefused,
    ReplyGivenUp,
)
from app.letters import DeadLetter, seal
from app.mailbox import Counts, DraftLease, Lease, Mailbox
from app.message import Address, Reply
from app.queue import Wake, WakeLater
from app.wording import Wording
from workers.fence import LeaseFence
from workers.leases import Leases
from workers.leaving import Leaving

ATTEMPTS = 3  # refused in every way
SUSPECT_PAUSE_S = 0.5
MOST_IN_A_ROW = 20
SEND_LIMIT_S = 120.0
FIRST_BACK_OFF_S, LONGEST_BACK_OFF_S = 1.0, 60.0
UNKNOWN_PAUSES_S = (1.0, 10.0, 60.0, 300.0)  # an outage of minutes costs no answer, a broken platform few repeats
TOO_LONG = "param.stream.content"
UNSAFE = "param.contentUnsafe"
NO_SUCH_CARD = ("param.stream.outTrackId", "param.cardNotExist")
NEVER_AGAIN = 2**52  # a version that no draft reaches
log = structlog.get_logger()

Way = Literal["card", "webhook", "proactive"]
Instead = Literal["", "first part", "audit"]
_MESSAGES: tuple[Way, ...] = ("webhook", "proactive")


class Progress(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far a reply is; kept with it, so that after a crash another sender goes on from there."""

    way: Way = "card"
    instead: Instead = ""  # what the card ends with, when the platform refused the whole
    part: int = 0  # of a text that is sent in parts: the next one
    calling: bool = False  # the call for that part had begun, and it has no idempotency key
    unknown: int = 0  # how often the outcome of that call stayed unknown


@dataclass(kw_only=True)
class SendDesk:
    """Everything that a delivery works with. One for a process."""

    outbox: Mailbox
    leases: Leases
    outlet: Outlet
    wake: Wake
    wake_later: WakeLater
    wording: Wording
    cards: Callable[[], bool]  # whether cards are used at the moment
    on_refused: Callable[[str], None] = lambda code: None  # what the platform said when it refused a card
    reply_expires_s: float = 86_400.0
    unsure: Literal["resend", "skip"] = "resend"
    draining: threading.Event = field(default_factory=threading.Event)
    suspects: threading.Lock = field(default_factory=threading.Lock)
    leaving: Leaving = field(default_factory=Leaving)
    call_s: float = 0.0  # how long a call to the platform may take


def deliver(conversation: str, *, desk: SendDesk) -> None:
    """Send what waits for a conversation, in order, one call at a time.

    Raises:
        StoreUnavailable: the record did not answer; the lease expires and another sender goes on.
    """
    for _ in range(MOST_IN_A_ROW):
        if desk.draining.is_set():
            break  # another process goes on: this one fetches no more
        held = desk.outbox.lease(conversation, "send")
        if not isinstance(held, Lease | DraftLease):
            return
        with desk.leases.holding(held, limit_s=SEND_LIMIT_S) as holding:
            fenced = replace(desk, outlet=desk.outlet.under(LeaseFence(holding, desk.outbox)))
            try:
                more = show(held, fenced) if isinstance(held, DraftLease) else settle(held, fenced)
            except LeaseLost:
                log.info("lease of an outbox lost", id=held.id)
                return
        if not more:
            return
    desk.wake("send", conversation)


def show(draft: DraftLease, desk: SendDesk) -> str:
    """Show the newest text of a running answer; the queue that has more to do. A draft may be skipped."""
    if not desk.cards() or not desk.outlet.can_card(draft.address):
        return desk.outbox.release(draft)
    try:
        type_out(draft, desk)
    except PlatformRefused as exc:  # the next draft would be refused too
        log.warning("card refused, nothing more is typed", id=draft.id, code=exc.code)
        desk.on_refused(exc.code)
        return desk.outbox.release(draft, shown=NEVER_AGAIN)
    except (PlatformBusy, OutcomeUnknown) as exc:
        log.info("draft skipped", id=draft.id, error=type(exc).__name__)
        return desk.outbox.release(draft)
    return desk.outbox.release(draft, shown=draft.version)


def type_out(draft: DraftLease, desk: SendDesk) -> None:
    """Update the card, or open it if there is none: the record may know of a card that was never made."""
    card = card_of(draft.id)
    if desk.outbox.card_open(draft.conversation, draft.id):
        try:
            desk.outlet.update_card(card, draft.text, key=key_of(f"{draft.id}:{draft.turn}:{draft.version}"))
        except PlatformRefused as exc:
            if exc.code not in NO_SUCH_CARD:
                raise
        else:
            return
    open_card(draft, draft.address, draft.text, desk)


def open_card(held: Lease | DraftLease, address: Address, text: str, desk: SendDesk) -> None:
    """Open a card, on record before the call: whatever happens then, somebody will finish it."""
    note = held.note if isinstance(held, Lease) else ""
    desk.outbox.mark(held, note, card="open")
    try:
        desk.outlet.open_card(card_of(held.id), address, text)
    except (PlatformBusy, PlatformRefused):  # proved: there is none
        desk.outbox.mark(held, note, card="gone")
        raise
    crashpoint("create/update")


def settle(held: Lease, desk: SendDesk) -> str:
    """Send one reply and take it out of the outbox, or give it back; the queue that has more to do."""
    if held.condemned:
        return bury(held, desk, "its sender vanished each time")
    if held.age_s > desk.reply_expires_s:
        return bury(held, desk, "the platform did not take it for too long")
    if not held.suspect:
        return attempt(held, desk)
    if not desk.suspects.acquire(blocking=False):  # as in a turn: what kills senders soon kills alone
        return later(held, desk, SUSPECT_PAUSE_S)
    try:
        return attempt(held, desk)
    finally:
        desk.suspects.release()


def attempt(held: Lease, desk: SendDesk) -> str:
    """Send, or say how the attempt ended."""
    try:
        send(held, desk)
    except PlatformBusy as exc:
        log.info("reply postponed", id=held.id, retry_after_s=exc.retry_after_s)
        return later(held, desk, exc.retry_after_s)
    except Drained:  # what was sent is marked, so another sender goes on behind it
        log.info("reply left to another sender", id=held.id)
        desk.outbox.release(held)
        return "send" if desk.draining.is_set() else ""  # while this one still fetches it would only come back
    except ReplyGivenUp:
        return bury(held, desk, "the platform's answer stayed unknown", "OutcomeUnknown")
    except MalformedFrame:
        return bury(held, desk, "it cannot be read", "MalformedFrame")
    except OutcomeUnknown:
        log.warning("platform's answer unknown; the same call will be repeated", id=held.id)
        return later(held, desk, min(max(FIRST_BACK_OFF_S, held.age_s), LONGEST_BACK_OFF_S))
    except PlatformRefused as exc:
        log.error("platform refused a reply in every way", id=held.id, code=exc.code)
        if held.raised + 1 >= ATTEMPTS:
            return bury(held, desk, "the platform refused it in every way", exc.code)
        return later(held, desk, FIRST_BACK_OFF_S * 2**held.raised, counts="raised")
    crashpoint("call/mark")
    return desk.outbox.commit(held).next_queue


def later(held: Lease, desk: SendDesk, after_s: float, *, counts: Counts = "") -> str:
    """Give a reply back until the platform takes it; no thread sleeps for that."""
    queue = desk.outbox.release(held, after_s=after_s, counts=counts)
    desk.wake_later("send", held.conversation, after_s)
    return queue


def send(held: Lease, desk: SendDesk) -> None:
    """Bring one reply to the person.

    Raises:
        PlatformBusy, OutcomeUnknown: try again later, from where the lease's note says.
        Drained: the next call might not end before this process does; the same.
        PlatformRefused: every way was refused.
    """
    reply, progress = held.reply(), read_progress(held.note)
    texts = desk.outlet.split(reply.text)
    if progress.way == "card":
        progress = by_card(held, reply, texts, progress, desk)
    if progress.instead == "audit":  # what the audit refused goes no other way
        texts = [desk.wording.say("refused_by_audit")]
    while progress.part < len(texts):
        progress = by_message(held, reply.address, texts, progress, desk)


def by_card(held: Lease, reply: Reply, texts: list[str], progress: Progress, desk: SendDesk) -> Progress:
    """Show the reply in its card; what is left to do: nothing, the rest of a long text, or all of it."""
    is_open = desk.outbox.card_open(held.conversation, held.id)
    if not is_open and not (desk.cards() and desk.outlet.can_card(reply.address)):
        return Progress("webhook")
    if progress.instead:
        return by_card_instead(held, texts, progress, desk)
    try:
        finish(held, reply, desk, is_open=is_open)
    except PlatformRefused as exc:
        log.warning("card refused", id=held.id, code=exc.code)
        desk.on_refused(exc.code)
        instead = instead_of_whole(exc.code, texts)
        if isinstance(exc, NoCard):
            return noted(held, Progress("webhook", "audit" if instead == "audit" else ""), desk)
        if instead:
            return by_card_instead(held, texts, noted(held, Progress("card", instead), desk), desk)
        return leave_card(held, desk)
    return Progress("card", part=len(texts))


def finish(held: Lease, reply: Reply, desk: SendDesk, *, is_open: bool) -> None:
    """Finish the card; open it first if there is none: the record may know of a card that was never made.

    Raises:
        NoCard: the platform refused to open one.
    """
    card, key = card_of(held.id), key_of(f"{held.id}:final")
    if is_open:
        crashpoint("update/finish")
        try:
            desk.outlet.finish_card(card, reply.text, key=key)
        except PlatformRefused as exc:
            if exc.code not in NO_SUCH_CARD:
                raise
        else:
            return
    try:  # with a word of ours: what the answer says is for the last update, and its audit
        open_card(held, reply.address, desk.wording.say("thinking"), desk)
    except PlatformRefused as exc:
        raise NoCard(exc.code) from exc
    desk.outlet.finish_card(card, reply.text, key=key)


def leave_card(held: Lease, desk: SendDesk, instead: Instead = "") -> Progress:
    """The answer goes another way: end the card, if there is one, so that it does not type for ever."""
    try:
        desk.outlet.fail_card(card_of(held.id), desk.wording.say("card_given_up"), key=key_of(f"{held.id}:failed"))
    except (PlatformRefused, PlatformBusy, OutcomeUnknown) as exc:  # the answer matters more
        log.warning("a card could not be ended", id=held.id, error=type(exc).__name__)
    return noted(held, Progress("webhook", "audit" if instead == "audit" else ""), desk)


def instead_of_whole(code: str, texts: list[str]) -> Instead:
    """What the platform may take in a card whose whole text it refused with this code."""
    if code.startswith(UNSAFE):
        return "audit"
    return "first part" if code.startswith(TOO_LONG) and len(texts) > 1 else ""


def by_card_instead(held: Lease, texts: list[str], progress: Progress, desk: SendDesk) -> Progress:
    """Finish an open card with another text than the whole; written down before, so a repeat is the same call."""
    text = texts[0] if progress.instead == "first part" else desk.wording.say("refused_by_audit")
    try:
        desk.outlet.finish_card(card_of(held.id), text, key=key_of(f"{held.id}:final:{progress.instead}"))
    except PlatformRefused as exc:
        log.warning("card refused again", id=held.id, code=exc.code)
        return leave_card(held, desk, progress.instead)
    if progress.instead == "audit":
        return Progress("card", "audit", part=len(texts))
    return noted(held, Progress("webhook", part=1), desk)


def by_message(held: Lease, address: Address, texts: list[str], progress: Progress, desk: SendDesk) -> Progress:
    """Send one part as a message; what is left to do. These calls have no idempotency key."""
    here = msgspec.structs.replace
    following = here(progress, part=progress.part + 1, calling=False, unknown=0)
    if progress.calling and desk.unsure == "skip":
        return noted(held, following, desk)
    desk.leaving.check(desk.call_s)  # who dies in mid-call makes somebody else send it again
    calling = noted(held, here(progress, calling=True), desk)
    call = desk.outlet.by_webhook if progress.way == "webhook" else desk.outlet.proactively
    try:
        call(address, texts[progress.part])
    except PlatformRefused as exc:
        first = progress.way == _MESSAGES[0]
        log.info("message refused", id=held.id, way=progress.way, code=exc.code)
        other = noted(held, here(following, way=_MESSAGES[1 if first else 0], part=progress.part), desk)
        if not first:
            raise
        return other
    except PlatformBusy:
        noted(held, here(progress, calling=False), desk)  # proved: nothing was done
        raise
    except OutcomeUnknown as exc:
        raise again_later(held, calling, desk) from exc
    return noted(held, following, desk) if following.part < len(texts) else following


def again_later(held: Lease, calling: Progress, desk: SendDesk) -> PlatformBusy | ReplyGivenUp:
    """A message whose outcome is unknown is sent again after longer and longer pauses, a few times."""
    if calling.unknown >= len(UNKNOWN_PAUSES_S):
        return ReplyGivenUp("the platform's answer stayed unknown")
    noted(held, msgspec.structs.replace(calling, unknown=calling.unknown + 1), desk)
    return PlatformBusy("outcome unknown", retry_after_s=UNKNOWN_PAUSES_S[calling.unknown])


def bury(held: Lease, desk: SendDesk, reason: str, error: str = "") -> str:
    """A reply that cannot be sent becomes a dead letter.

    If it was its senders that vanished, and not the platform that refused, the person gets an apology in its place:
    the same card is finished with it, by a call with the same key.
    """
    log.error("reply given up", id=held.id, reason=reason, raised=held.raised, vanished=held.vanished)
    record = seal(DeadLetter(id=held.id, reason=reason, error=error, reply=held.body))
    apology = apology_for(held, desk) if held.condemned else None
    return desk.outbox.commit(held, reply=apology, dead_letter=record).next_queue


def apology_for(held: Lease, desk: SendDesk) -> Reply | None:
    """What the person is told instead; nothing if that is what could not be told."""
    try:
        reply = held.reply()
    except MalformedFrame:
        return None
    if reply.kind == "apology":
        return None
    return msgspec.structs.replace(reply, text=desk.wording.say("apology_failed"), kind="apology")


def noted(held: Lease, progress: Progress, desk: SendDesk) -> Progress:
    """Write the progress down before anything else happens. Raises LeaseLost."""
    desk.outbox.mark(held, msgspec.json.encode(progress).decode())
    return progress


def read_progress(note: str) -> Progress:
    return msgspec.json.decode(note, type=Progress) if note else Progress()


def card_of(message_id: str) -> str:
    """The card that answers a message: the same for every attempt of every process."""
    return f"switchyard-{hashlib.sha256(message_id.encode()).hexdigest()[:32]}"


def key_of(what: str) -> str:
    """The idempotency key of a call: the same call has the same key, whoever makes it."""
    return hashlib.sha256(what.encode()).hexdigest()[:32]
