"""Judge a run by the platform's own log: what was accepted, and what people saw. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Event = Mapping[str, Any]
ANSWERS = ("finished", "webhook", "proactive")


@dataclass(frozen=True, slots=True)
class Sent:
    """One message that a person sent. `mark` stands in its text, and so in the right answer and in no other."""

    msg_id: str
    person: str
    number: int  # the person's messages, in the order of sending
    mark: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was accepted and answered, and by their marks what went wrong."""

    sent: int
    accepted: int
    answered: int
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    out_of_order: list[str] = field(default_factory=list)
    wrong_recipient: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)  # answers that carry nobody's mark
    left_typing: list[str] = field(default_factory=list)

    def faults(self) -> dict[str, list[str]]:
        """Every kind of fault with what it was found on."""
        names = ("lost", "doubled", "out_of_order", "wrong_recipient", "unexpected", "left_typing")
        return {name: getattr(self, name) for name in names}

    def holds(self) -> bool:
        """Whether the promise was kept. A run in which nothing was accepted proves nothing."""
        return self.accepted > 0 and not any(self.faults().values())


def judge(sent: Sequence[Sent], events: Iterable[Event]) -> Verdict:
    """Judge a finished run; `events` is the whole log of the platform, oldest first."""
    log = list(events)
    by_mark = {message.mark: message for message in sent}
    acked_at = _first_acks(log)
    accepted = [message for message in sent if message.msg_id in acked_at]
    shown: dict[str, list[Event]] = defaultdict(list)
    wrong, unexpected = [], []
    for event in log:
        if event["kind"] not in ANSWERS:
            continue
        message = _answered(event, by_mark)
        if message is None:
            unexpected.append(str(event["seq"]))
            continue
        shown[message.mark].append(event)
        if event.get("person") != message.person:
            wrong.append(message.mark)
    return Verdict(
        sent=len(sent),
        accepted=len(accepted),
        answered=sum(1 for message in accepted if shown[message.mark]),
        lost=[message.mark for message in accepted if not shown[message.mark]],
        doubled=[mark for mark, answers in shown.items() if len(answers) > 1],
        out_of_order=_out_of_order(accepted, shown, acked_at),
        wrong_recipient=wrong,
        unexpected=unexpected,
        left_typing=_left_typing(log),
    )


def _first_acks(log: Iterable[Event]) -> dict[str, int]:
    acks: dict[str, int] = {}
    for event in log:
        if event["kind"] == "acked" and event.get("code", 200) == 200:
            acks.setdefault(event["msgId"], event["seq"])
    return acks


def _answered(event: Event, by_mark: Mapping[str, Sent]) -> Sent | None:
    """The message whose mark an answer carries; marks stand between two `#`."""
    for part in str(event.get("text", "")).split("#")[1::2]:
        if part in by_mark:
            return by_mark[part]
    return None


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
        elif event["kind"] in ("finished", "failed"):
            open_cards.pop(event["card"], None)
    return list(open_cards)
