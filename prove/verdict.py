"""Judge a run by the platform's own log: what was accepted, and what people saw. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sandbox.journal import ANSWERS

Event = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Sent:
    """One message that a person sent. `mark` stands in its text, and so in the right answer and in no other."""

    msg_id: str
    person: str
    number: int  # the person's messages, in the order of sending
    mark: str
    card: str = ""  # the card that answers it, if it is answered in one


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was accepted and answered, and by their marks what went wrong."""

    sent: int
    accepted: int
    answered: int
    notices: int = 0  # of these, answered by an apology or a refusal that names them
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    out_of_order: list[str] = field(default_factory=list)
    wrong_recipient: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)  # answers that are nobody's
    left_typing: list[str] = field(default_factory=list)
    ids: dict[str, str] = field(default_factory=dict)  # mark -> the platform's id of the message

    def faults(self) -> dict[str, list[str]]:
        """Every kind of fault with what it was found on."""
        names = ("lost", "doubled", "out_of_order", "wrong_recipient", "unexpected", "left_typing")
        return {name: getattr(self, name) for name in names}

    def ids_of_faults(self) -> dict[str, str]:
        """Mark -> the platform's id of each message that something is wrong with: what to look for in the logs."""
        wrong = {mark for found in self.faults().values() for mark in found}
        return {mark: id for mark, id in self.ids.items() if mark in wrong}

    def holds(self) -> bool:
        """Whether the promise was kept. A run in which nothing was accepted proves nothing."""
        return self.accepted > 0 and not any(self.faults().values())


def judge(sent: Sequence[Sent], events: Iterable[Event], *, shared: Mapping[str, int] | None = None) -> Verdict:
    """Judge a finished run; `events` is the whole log of the platform, oldest first.

    An answer belongs to the message whose mark it carries. A notice carries none: it belongs to the message that its
    card or its webhook was for. `shared` says of how many messages a notice with a certain text speaks.
    """
    log = list(events)
    names = _Names(sent, shared or {})
    acked_at = _first_acks(log)
    accepted = [message for message in sent if message.msg_id in acked_at]
    shown: dict[str, list[Event]] = defaultdict(list)
    notices: dict[str, Event] = {}
    wrong, unexpected = [], []
    for event in log:
        if event["kind"] not in ANSWERS or event.get("state") == "failed":  # a card that was given up answers nothing
            continue
        message = names.answered(event)
        if message is None:
            for named in names.noticed(event):
                notices[named.mark] = event
                shown[named.mark].append(event)
            message = names.named(event)
        else:
            shown[message.mark].append(event)
        if message is None:
            unexpected.append(str(event["seq"]))
        elif event.get("person") != message.person:
            wrong.append(message.mark)
    return Verdict(
        sent=len(sent),
        accepted=len(accepted),
        answered=sum(1 for message in accepted if shown[message.mark]),
        notices=sum(1 for message in accepted if message.mark in notices),
        lost=[message.mark for message in accepted if not shown[message.mark]],
        doubled=[mark for mark, answers in shown.items() if len(answers) > 1],
        out_of_order=_out_of_order(accepted, shown, acked_at),
        wrong_recipient=wrong,
        unexpected=unexpected,
        left_typing=_left_typing(log),
        ids={message.mark: message.msg_id for message in sent},
    )


class _Names:
    """Which message an answer is for."""

    def __init__(self, sent: Sequence[Sent], shared: Mapping[str, int]) -> None:
        self._by_mark = {message.mark: message for message in sent}
        self._by_card = {message.card: message for message in sent if message.card}
        self._by_id = {message.msg_id: message for message in sent}
        self._shared = shared
        self._of_person: dict[str, list[Sent]] = defaultdict(list)
        for message in sent:
            self._of_person[message.person].append(message)

    def answered(self, event: Event) -> Sent | None:
        """The message whose mark an answer carries; marks stand between two `#`."""
        for part in str(event.get("text", "")).split("#")[1::2]:
            if part in self._by_mark:
                return self._by_mark[part]
        return None

    def named(self, event: Event) -> Sent | None:
        """The message that a notice's card or webhook was for."""
        return self._by_card.get(event.get("card", "")) or self._by_id.get(event.get("session_msgId", ""))

    def noticed(self, event: Event) -> Sequence[Sent]:
        """All messages that a notice speaks of: the named one, and if it is a shared one those that follow."""
        named = self.named(event)
        if named is None:
            return ()
        count = self._shared.get(str(event.get("text", "")), 1)
        return [one for one in self._of_person[named.person] if one.number >= named.number][:count]


def _first_acks(log: Iterable[Event]) -> dict[str, int]:
    acks: dict[str, int] = {}
    for event in log:
        if event["kind"] == "acked" and event.get("code", 200) == 200:
            acks.setdefault(event["msgId"], event["seq"])
    return acks


def _out_of_order(accepted: Iterable[Sent], shown: Mapping[str, list[Event]], acked_at: Mapping[str, int]) -> list[str]:
    """Answers that came before an earlier message's, although that one had been acknowledged first.

    A frame that was lost with its connection comes again later: its later place is no fault.
    """
    people: dict[str, list[Sent]] = defaultdict(list)
    for message in accepted:
        if shown[message.mark]:
            people[message.person].append(message)
    faults = []
    for messages in people.values():
        ordered = sorted(messages, key=lambda message: shown[message.mark][0]["seq"])
        for place, later in enumerate(ordered):
            overtaken = any(
                earlier.number < later.number and acked_at[earlier.msg_id] < acked_at[later.msg_id]
                for earlier in ordered[place + 1 :]
            )
            if overtaken:
                faults.append(later.mark)
    return faults


def _left_typing(log: Iterable[Event]) -> list[str]:
    open_cards: dict[str, None] = {}
    for event in log:
        if event["kind"] == "created":
            open_cards[event["card"]] = None
        elif event["kind"] == "finished":
            open_cards.pop(event["card"], None)
    return list(open_cards)
