"""The people of a run: they talk, wait for answers and talk on, and nobody ever has many messages waiting."""

import base64
import random
import threading
from typing import Any

from app.channels.dingtalk.cards import track_id
from app.message import conversation_id
from prove.plan import Plan
from prove.verdict import Event, Sent
from sandbox.client import SandboxClient
from sandbox.journal import ANSWERS
from sandbox.messages import person_of
from workers.delivery import card_of

KINDS = ("pushed", "acked", "created", *ANSWERS)
LOOK_EVERY_S = 0.1
MOST_WAITING = 4  # of one person; far below the inbox limit
BURST = 3
AT_ONCE = 10  # messages in one go, so that the platform's log stays a fair clock
AGAIN_AFTER_S = 0.5
# About 1 s and 4 s of the echo engine's time: shorter, and longer than a lease.
SHORT, LONG = "says that things go on", "says " + "on and on and " * 9


class Crowd:
    """Says `plan.messages` messages in all, or more if a kill wants for words; `limit` of them for now.

    At most `aim` are on their way at a time.
    """

    def __init__(self, plan: Plan, client: SandboxClient, robot: str) -> None:
        self.sent: list[Sent] = []
        self.events: list[Event] = []
        self.aim = plan.people
        self.limit = plan.messages
        self._messages = plan.messages
        self._client = client
        self._robot = robot
        self._chance = random.Random(plan.seed)
        self._waiting: dict[str, set[str]] = {f"person{index}": set() for index in range(plan.people)}
        self._said = dict.fromkeys(self._waiting, 0)
        self._whose: dict[str, tuple[str, str]] = {}  # message id or card -> person, message id
        self._since = client.last()
        self._unacked: set[str] = set()
        self._ack_times_s: list[float] = []
        self._lock = threading.Lock()

    @property
    def conversations(self) -> list[str]:
        """What the record calls these people's talks."""
        return [
            conversation_id("dingtalk", self._robot, f"cid-{person}=", person_of({"sender": person}).id)
            for person in self._waiting
        ]

    @property
    def done(self) -> bool:
        """Whether everything has been said."""
        return len(self.sent) >= max(self._messages, self.limit)

    @property
    def on_the_way(self) -> int:
        """Messages that have no answer yet."""
        return sum(map(len, self._waiting.values()))

    def go_on(self) -> None:
        """Somebody waits for a victim with work in hand: say a little more, if all that may be said is answered.

        On a busy machine that may be more than was planned: a kill must not fail for want of words.
        """
        if not self.on_the_way:
            self.limit = max(self.limit, len(self.sent)) + AT_ONCE // 2

    def unacked(self) -> int:
        """Messages that were handed over and are not acknowledged, as of now."""
        self.look()
        return len(self._unacked)

    def first_ack_after(self, when_s: float) -> float | None:
        """When the first acknowledgement after a time came, both by time.monotonic(); None if none has yet."""
        self.look()
        return next((ack_s for ack_s in self._ack_times_s if ack_s > when_s), None)

    def talk(self, stop: threading.Event) -> None:
        """Say what there is to say, until `stop` is set."""
        while not stop.wait(LOOK_EVERY_S):
            self.look()
            free = min(AT_ONCE, self.aim - self.on_the_way, self.limit - len(self.sent))
            if free > 0:
                self._say(free)

    def look(self) -> None:
        """Read what has happened at the platform since the last time."""
        with self._lock:
            events, self._since = self._client.follow(self._since, *KINDS)
            self.events += events
            for event in events:
                self._note(event)

    def _note(self, event: Event) -> None:
        kind = event["kind"]
        if kind == "pushed":
            self._unacked.add(event["msgId"])
        elif kind == "acked":
            self._unacked.discard(event["msgId"])
            self._ack_times_s.append(event["mono_s"])
        elif kind in ANSWERS:
            person, msg_id = self._whose.get(event.get("card") or event.get("session_msgId", ""), ("", ""))
            self._waiting.get(person, set()).discard(msg_id)

    def _say(self, at_most: int) -> None:
        """Some people say one thing or a few things in a row."""
        messages: list[tuple[str, dict[str, Any]]] = []
        people = [person for person, waiting in self._waiting.items() if len(waiting) <= MOST_WAITING - BURST]
        self._chance.shuffle(people)
        for person in people:
            for _ in range(self._chance.randint(1, BURST)):
                if len(messages) < at_most:
                    messages.append((person, self._message(person)))
        if not messages:
            return
        with self._lock:  # nobody reads the log between the push and our knowing of it
            told = self._client.send_many([message for _, message in messages])
            for (person, message), answer in zip(messages, told, strict=True):
                self._remember(person, message, answer["msgId"])

    def _message(self, person: str) -> dict[str, Any]:
        """For the model mostly, or for the pools that run commands and read pictures; some come again.

        A redelivery wakes its conversation and so would hide that nobody else did: it happens to some people only.
        """
        number = self._said[person]
        self._said[person] += 1
        text = f"#{person.replace('person', 'p')}m{number}# {self._chance.choices((SHORT, LONG), (3, 1))[0]}"
        kind = self._chance.choices(("text", "command", "picture"), (6, 2, 2))[0]
        what: dict[str, Any] = {"text": f"/slow {text}" if kind == "command" else text}
        if kind == "picture":
            what = {"kind": "picture", "picture": base64.b64encode(text.encode()).decode(), "text": text}
        if int(person.removeprefix("person")) % 3 == 0 and self._chance.random() < 0.5:
            what |= {"redeliveries": 1, "redeliver_after_s": self._chance.uniform(0.05, 4 * AGAIN_AFTER_S)}
        return {**what, "conversation": f"cid-{person}=", "sender": person, "staff": person}

    def _remember(self, person: str, message: dict[str, Any], msg_id: str) -> None:
        mark = message["text"].split("#")[1]
        card = track_id(card_of(f"dingtalk:{self._robot}:{msg_id}"))
        self.sent.append(Sent(msg_id, person, int(mark.rpartition("m")[2]), mark, card))
        self._whose[msg_id] = self._whose[card] = (person, msg_id)
        self._waiting[person].add(msg_id)
