"""The story of one answer: lease, recall, choose, run, commit, wake. It knows no Celery. Read this first."""

import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import structlog

from app.context import extended, recall
from app.crashpoints import crashpoint
from app.errors import (
    BadPicture,
    Drained,
    EngineStopped,
    EngineUnavailable,
    LeaseLost,
    MalformedFrame,
    PlatformBusy,
    PlatformRefused,
    RequestRejected,
    SkillBroken,
    Transient,
)
from app.letters import DeadLetter, seal
from app.mailbox import Counts, Elsewhere, Lease, Mailbox, Remember
from app.message import Attachment, Message, Reply, ReplyKind, Said
from app.queue import Wake, WakeLater
from app.redis import Store
from app.wording import Wording
from skills.sdk import Answer, Forward
from workers.engine.interface import Engine, Finish, Handle, Request
from workers.leases import Holding, Leases
from workers.skills import Skill, Skills
from workers.typing import Typing

ATTEMPTS = 3  # raised: then it is a dead letter
SUSPECT_PAUSE_S = 0.5
FIRST_BACK_OFF_S = 1.0
COMMIT_MARGIN_S, COMMIT_SHARE = 5.0, 0.2  # an answer that is still being written is cut so long before the limit
log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What an installation sets about turns. Times in seconds."""

    turn_limit_s: float = 120.0
    silence_limit_s: float = 60.0
    answer_tokens: int = 512
    system_prompt: str = ""


@dataclass(kw_only=True)
class Desk:
    """Everything that a turn works with. One for a process."""

    inbox: Mailbox
    store: Store
    leases: Leases
    skills: Skills
    wake: Wake
    wake_later: WakeLater
    wording: Wording
    typing: Typing
    rules: Rules = field(default_factory=Rules)
    engine: Engine | None = None
    download: Callable[[Attachment], bytes] | None = None
    draining: threading.Event = field(default_factory=threading.Event)
    suspects: threading.Lock = field(default_factory=threading.Lock)


def run_turn(conversation: str, queue: str, *, desk: Desk) -> None:
    """Answer the head of a conversation, if there is one for this queue and nobody else has it.

    Raises:
        StoreUnavailable: the record did not answer; the lease expires and another worker goes on.
    """
    if desk.draining.is_set():
        desk.wake(queue, conversation)  # for another process: this one fetches no more
        return
    held = desk.inbox.lease(conversation, queue)
    if isinstance(held, Elsewhere):
        desk.wake(held.queue, conversation)
    if not isinstance(held, Lease):
        return  # a wake-up is a hint, the mailbox is the record
    with desk.leases.holding(held, limit_s=desk.rules.turn_limit_s) as holding:
        try:
            wakes = settle(held, holding, queue, desk)
        except LeaseLost:
            log.info("lease lost; the work is thrown away", id=held.id)
            return
    crashpoint("commit/wake")
    for name in filter(None, wakes):
        desk.wake(name, conversation)


def settle(held: Lease, holding: Holding, queue: str, desk: Desk) -> Sequence[str]:
    """Bring a lease to its end, whatever it takes; the queues to wake."""
    if held.stale:
        return apologise_for_stale(held, desk)
    if held.condemned:
        return bury(held, desk, "it hung, or its worker vanished" if held.note else "its worker vanished each time")
    if held.raised >= ATTEMPTS:
        return bury(held, desk, "it raised each time")
    if not held.suspect:
        return attempt(held, holding, queue, desk)
    if not desk.suspects.acquire(blocking=False):  # one suspect at a time: what kills workers soon kills alone
        return postpone(held, desk, queue, SUSPECT_PAUSE_S)
    try:
        return attempt(held, holding, queue, desk)
    finally:
        desk.suspects.release()


def apologise_for_stale(held: Lease, desk: Desk) -> Sequence[str]:
    """Close everything that waited too long, with one apology that says how many."""
    text = desk.wording.say("apology_stale", count=len(held.stale))
    try:
        return close(held, desk, text, kind="apology", closes=held.stale)
    except MalformedFrame as exc:
        return bury(held, desk, "it cannot be read", exc)


def attempt(held: Lease, holding: Holding, queue: str, desk: Desk) -> Sequence[str]:
    """Answer, or say how the attempt ended."""
    try:
        return answer(held, holding, queue, desk)
    except Drained:
        return [desk.inbox.release(held)]
    except EngineStopped:  # perhaps because of this very message
        log.warning("the engine stopped under a turn", id=held.id)
        return postpone(held, desk, queue, FIRST_BACK_OFF_S, counts="vanished")
    except Transient as exc:
        pause = exc.retry_after_s if isinstance(exc, PlatformBusy | EngineUnavailable) else FIRST_BACK_OFF_S
        log.info("turn postponed", id=held.id, reason=type(exc).__name__)
        return postpone(held, desk, queue, pause)
    except MalformedFrame as exc:
        return bury(held, desk, "it cannot be read", exc)
    except SkillBroken as exc:
        log.warning("turn failed", id=held.id, raised=held.raised + 1, error=type(root_of(exc)).__name__)
        if isinstance(exc.__cause__, RequestRejected):
            return bury(held, desk, "the engine can never run it", exc)
        if held.raised + 1 >= ATTEMPTS:
            return bury(held, desk, "it raised each time", exc)
        return postpone(held, desk, queue, FIRST_BACK_OFF_S * 2**held.raised, counts="raised")


def postpone(held: Lease, desk: Desk, queue: str, after_s: float, *, counts: Counts = "") -> Sequence[str]:
    """Give the head back for a while."""
    woken = desk.inbox.release(held, after_s=after_s, counts=counts)
    desk.wake_later(queue, held.conversation, after_s)
    return [woken]


def answer(held: Lease, holding: Holding, queue: str, desk: Desk) -> Sequence[str]:
    """Run the skill and commit what it says."""
    message = held.message()
    skill = desk.skills.choose(message)
    if skill is None:
        return close(held, desk, desk.wording.say("unsupported", kind=desk.wording.say("kind_other")))
    if skill.queue != queue:
        return hand_on(held, desk, message, skill.queue)
    if skill.time_limit_s is not None:
        holding.allow(skill.time_limit_s)
    turn = TurnContext(message=message, lease=held, holding=holding, desk=desk)
    crashpoint("lease/execute")
    try:
        result = desk.skills.run(skill, message, turn)
    except (BadPicture, PlatformRefused) as exc:
        log.info("attachment cannot be read", id=held.id, error=type(exc).__name__)
        result = Answer(text=desk.wording.say("bad_picture"), remember=False)
    if isinstance(result, Forward):
        return hand_on(held, desk, msgspec.structs.replace(message, kind="text", text=result.text), result.queue)
    crashpoint("execute/commit")
    return finish(turn, held, skill, result)


def finish(turn: "TurnContext", held: Lease, skill: Skill, result: Answer) -> Sequence[str]:
    """Commit an answer with what becomes of the context."""
    remember = Remember()
    if result.forget:
        remember = Remember(what="forget")
    elif not turn.unsaid and (skill.remembers if result.remember is None else result.remember):
        question = turn.message.text or f"[{turn.message.kind}]"
        remember = Remember(what="save", context=extended(turn.history, question, result.text))
    mark = "cut_mark" if turn.cut else "stopped_mark" if turn.stopped and not turn.unsaid else ""
    text = f"{result.text}\n\n{turn.wording(mark)}" if mark else result.text
    return close(held, turn.desk, text, remember=remember, stopped=turn.stopped)


def close(
    held: Lease,
    desk: Desk,
    text: str,
    *,
    kind: ReplyKind = "answer",
    remember: Remember | None = None,
    stopped: bool = False,
    closes: Sequence[str] = (),
    dead_letter: bytes = b"",
) -> Sequence[str]:
    """Commit one reply; the queues to wake."""
    message = held.message()
    reply = Reply(
        id=held.id,
        conversation=held.conversation,
        address=message.address,
        text=in_words(message, text, desk),
        kind=kind,
        answers=tuple(closes),
        stopped=stopped,
    )
    done = desk.inbox.commit(held, reply=reply, remember=remember, closes=closes, dead_letter=dead_letter)
    return done.send, done.next_queue


def in_words(message: Message, text: str, desk: Desk) -> str:
    """What the person reads: a late answer begins with what it is about."""
    return desk.wording.late(message.text, text) if message.late else text


def bury(held: Lease, desk: Desk, reason: str, exc: BaseException | None = None) -> Sequence[str]:
    """Make it a dead letter, with one apology in the same step."""
    log.error("dead letter", id=held.id, reason=reason)
    record = dead_letter(held, reason, exc)
    try:
        return close(held, desk, desk.wording.say("apology_failed"), kind="apology", dead_letter=record)
    except MalformedFrame:  # nobody can be told: the record itself cannot be read
        done = desk.inbox.commit(held, dead_letter=record)
        return [done.next_queue]


def hand_on(held: Lease, desk: Desk, message: Message, queue: str) -> Sequence[str]:
    """Forward to another queue: same message, same place, still one reply."""
    woken = desk.inbox.forward(held, message, queue)
    return [woken] if woken else bury(held, desk, "it was forwarded too often")


def dead_letter(held: Lease, reason: str, exc: BaseException | None) -> bytes:
    """The record of a message that was given up: where it broke, not what was raised, which may quote the person."""
    root = root_of(exc) if exc else None
    where = "".join(traceback.format_tb(root.__traceback__)) if root else held.note
    error = type(root).__name__ if root else ""
    return seal(DeadLetter(id=held.id, reason=reason, error=error, where=where, message=held.body))


def root_of(exc: BaseException) -> BaseException:
    """What went wrong first: in a skill, not in the wrapping around it."""
    while exc.__cause__ is not None:
        exc = exc.__cause__
    return exc


class TurnContext:
    """What a skill may use while it runs: skills.sdk.Context for one turn."""

    def __init__(self, *, message: Message, lease: Lease, holding: Holding, desk: Desk) -> None:
        self.message = message
        self._lease = lease
        self._holding = holding
        self.desk = desk
        self.locale = desk.wording.locale
        self.history = recall(desk.store, message.conversation)
        self.stopped = False  # the answer was cut at the person's request
        self.unsaid = False  # ... before there was any
        self.cut = False  # the turn's time was over

    def ask(
        self, messages: Sequence[Said] | None = None, *, temperature: float | None = None, adapter: str | None = None
    ) -> str:
        """skills.sdk.Context.ask: the prompt goes to the engine, its text to the person as it comes."""
        engine, desk = self.desk.engine, self.desk
        if engine is None:
            raise SkillBroken("a skill that asks the engine must declare queue = 'text'")
        prompt = tuple((said.role, said.text) for said in messages or self._prompt())
        request = Request(
            messages=engine.fit(prompt, desk.rules.answer_tokens),
            max_new_tokens=desk.rules.answer_tokens,
            temperature=temperature or 0.0,
            adapter=adapter,
        )
        text, finish = self._follow(engine, request)
        self.stopped = finish == "cancelled" and self._holding.ending == "stopped"
        self.cut = finish == "cancelled" and self._holding.ending is None
        self.unsaid = self.stopped and not text
        return desk.wording.say("stopped") if self.unsaid else text

    def read(self, attachment: Attachment) -> bytes:
        """skills.sdk.Context.read."""
        if self.desk.download is None:
            raise SkillBroken("this pool downloads nothing")
        return self.desk.download(attachment)

    def wording(self, key: str, **fields: object) -> str:
        return self.desk.wording.say(key, **fields)

    def commands(self) -> Mapping[str, str]:
        return self.desk.skills.commands(self.locale)

    def waiting(self) -> tuple[int, float]:
        """skills.sdk.Context.waiting; what is in work is not counted, nor is the message that asks."""
        census = self.desk.inbox.census()
        return census.waiting, census.oldest_s

    def _prompt(self) -> list[Said]:
        system = self.desk.rules.system_prompt or self.desk.wording.say("default_system_prompt")
        return [Said("system", system), *self.history, Said("user", self.message.text)]

    def _follow(self, engine: Engine, request: Request) -> tuple[str, Finish]:
        """The whole text of a request, shown as it comes, and how it ended.

        Raises Drained or LeaseLost if the turn was ended.
        """
        pieces: list[str] = []
        desk, holding = self.desk, self._holding
        with (
            desk.typing.typist(self._lease, self.message.address) as typist,
            holding.listening(desk.rules.silence_limit_s),
        ):
            if typist.due():
                typist.show(desk.wording.say("thinking"))
            handle = engine.submit(request)
            holding.on_end(handle.cancel)
            try:
                for piece in self._pieces(handle):
                    pieces.append(piece)
                    if typist.due():
                        typist.show(in_words(self.message, "".join(pieces), desk))
            finally:
                handle.cancel()  # whatever went wrong here: the engine must not go on for nobody
        match holding.ending:
            case "drained":
                raise Drained("the process is leaving")
            case "lost" | "hung":
                raise LeaseLost(self._lease.conversation)
        return "".join(pieces).strip(), handle.result().finish

    def _pieces(self, handle: Handle) -> Iterator[str]:
        """The text as it comes. Waiting for a slot takes nothing from the turn's time; what is there by its end is
        the answer."""
        margin_s = min(COMMIT_MARGIN_S, COMMIT_SHARE * self._holding.limit_s)
        while True:
            try:
                piece = handle.next_piece(min(1.0, margin_s / 2))
            except TimeoutError:
                if not handle.begun:
                    self._holding.wait()
            else:
                if piece is None:
                    return
                self._holding.touch()
                if piece:  # else a sign of life: the model thinks
                    yield piece
            if self._holding.left_s() < margin_s:
                handle.cancel()
