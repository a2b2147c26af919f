"""All parts of one sandbox, put together."""

import base64
import binascii
import time
import uuid
from typing import Any

from sandbox.bounded import Bounded
from sandbox.cards import Cards
from sandbox.faults import Faults
from sandbox.files import Files
from sandbox.frames import BOT_MESSAGES, encode
from sandbox.gateway import Connection, Gateway, Push
from sandbox.journal import Journal
from sandbox.messages import Robot as RobotName
from sandbox.messages import content, conversation_of, envelope, merged, person_of
from sandbox.refusal import bad_param
from sandbox.rules import Rules
from sandbox.sends import Robot, Sessions
from sandbox.spaces import Spaces
from sandbox.tokens import Credentials, Quota, Tokens

Json = dict[str, Any]


class World:
    """One platform with one app, whose robot code is its client id."""

    def __init__(self, credentials: Credentials, rules: Rules, base_url: str) -> None:
        self.base_url = base_url
        self.credentials = credentials
        self.rules = rules
        self.journal = Journal()
        self.faults = Faults()
        self.tokens = Tokens(credentials, rules)
        self.quota = Quota(rules)
        self.gateway = Gateway(self.journal, rules, self.faults)
        self.spaces = Spaces(credentials.client_id)
        self.cards = Cards(self.journal, rules, self.spaces)
        self.sessions = Sessions(self.journal, rules)
        self.robot = Robot(self.journal, self.spaces, credentials.client_id)
        self.files = Files(self.journal, base_url, credentials.client_id)
        self._sent_ms: Bounded[str, int] = Bounded(100_000)

    def say(self, request: Json) -> Json:
        """A person sends a message; -> its msgId, the log's last number before it, and whether it was pushed."""
        named = request.get("connection")
        connections: list[Connection | None] = [None] if named is None else [*self.gateway.pick(named)]
        push = self._push_of(request)
        before, pushed = self.journal.last, False
        for connection in connections:
            pushed = self.gateway.push(push, connection) or pushed
        times, after_s = int(request.get("redeliveries", 0)), float(request.get("redeliver_after_s", 0.05))
        self.gateway.again(push, times, after_s)
        return {"msgId": push.msg_id, "seq": before, "pushed": pushed, "conversation": push.conversation}

    def reset(self) -> None:
        """A fresh day: no log, cards, files, sessions or faults. Connections, tokens and rules stay."""
        self.journal.clear()
        self.faults.clear()
        self.cards.clear()
        self.files.clear()
        self.sessions.expire()
        self.quota.clear()

    def _push_of(self, request: Json) -> Push:
        topic, kind = str(request.get("topic", BOT_MESSAGES)), str(request.get("type", "CALLBACK"))
        if request.get("kind") == "raw":
            data = request.get("data")
            fields = data if isinstance(data, dict) else {}
            msg_id, conversation = str(fields.get("msgId", "")), str(fields.get("conversationId", ""))
            text = data if isinstance(data, str) else encode(data)
        else:
            built = self._build(request)
            msg_id, conversation, text = (
                str(built.get("msgId", "")),
                str(built.get("conversationId", "")),
                encode(built),
            )
        return Push(msg_id, text, topic, kind=kind, conversation=conversation, headers=request.get("headers"))

    def _build(self, request: Json) -> Json:
        person = person_of(request)
        conversation = conversation_of(request, person)
        msg_id = str(request.get("msgId") or f"msg{uuid.uuid4().hex}==")
        if person.staff is not None and not request.get("group"):
            self.spaces.learn(person.staff, conversation)
        session = self.sessions.start(conversation, person.staff or person.id, msg_id)
        created_ms = request.get("createAt")
        data = envelope(
            request,
            robot=RobotName(self.credentials.client_id),
            msg_id=msg_id,
            created_ms=self._next_ms(conversation) if created_ms is None else int(created_ms),
            webhook=f"{self.base_url}/robot/sendBySession?session={session}",
            expires_ms=int((time.time() + self.rules.webhook_s) * 1000),
        )
        data |= content(request, self._picture(request))
        return merged(data, request.get("data") or {})

    def _picture(self, request: Json) -> str | None:
        if request.get("kind", "text") == "text":
            return None
        try:
            return self.files.keep(base64.b64decode(str(request.get("picture", "")), validate=True))
        except binascii.Error as exc:
            raise bad_param("sandbox.picture", "picture is no base64") from exc

    def _next_ms(self, conversation: str) -> int:
        """The time of sending: now, and later than what was said before in the same conversation."""
        now_ms = max(int(time.time() * 1000), self._sent_ms.get(conversation, 0) + 1)
        self._sent_ms[conversation] = now_ms
        return now_ms
