"""Messages of the robot that are no cards: by a message's session webhook, by the robot's own API, and reactions."""

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from sandbox.bounded import Bounded
from sandbox.journal import Journal
from sandbox.refusal import bad_param, no_session, old_error
from sandbox.rules import Rules
from sandbox.spaces import Spaces

Json = dict[str, Any]

WEBHOOK_BYTES = 20_000
GROUP_BYTES = 15_000
PEOPLE_A_CALL = 20
MESSAGE_KEYS = frozenset(
    {"sampleText", "sampleMarkdown", "sampleImageMsg", "sampleLink", "sampleAudio", "sampleFile", "sampleVideo"}
    | {"sampleActionCard", *(f"sampleActionCard{n}" for n in range(2, 7))}
)
# Where the words of a webhook message stand, by its msgtype.
_WORDS = {"text": "content", "markdown": "text", "actionCard": "text", "link": "text", "feedCard": "links"}


@dataclass(frozen=True, slots=True)
class Session:
    """What stands behind one sessionWebhook."""

    conversation: str
    person: str
    msg_id: str
    ends: float


class Sessions:
    """POST /robot/sendBySession: every message brings a webhook of its own, for a while."""

    def __init__(self, journal: Journal, rules: Rules, clock: Callable[[], float] = time.monotonic) -> None:
        self._journal = journal
        self._rules = rules
        self._clock = clock
        self._sessions: Bounded[str, Session] = Bounded(500_000)

    def start(self, conversation: str, person: str, msg_id: str) -> str:
        """A new session; `person` is the staff id or the sender id."""
        session = uuid.uuid4().hex
        self._sessions[session] = Session(conversation, person, msg_id, self._clock() + self._rules.webhook_s)
        return session

    def expire(self) -> None:
        """End every session at once."""
        self._sessions.clear()

    def send(self, session_id: str, body: Json) -> Json:
        """Show one message. Raises Refused with HTTP 200 and an errcode."""
        session = self._sessions.get(session_id)
        if session is None or self._clock() >= session.ends:
            raise no_session()
        kind = body.get("msgtype")
        part = body.get(kind) if isinstance(kind, str) else None
        if not isinstance(kind, str) or kind not in _WORDS or not isinstance(part, dict):
            raise old_error(40035, "不合法的参数")
        words = part.get(_WORDS[kind])
        text = words if isinstance(words, str) else msgspec.json.encode(words).decode()
        if not words:
            raise old_error(40035, "不合法的参数")
        if len(text.encode()) > WEBHOOK_BYTES:
            raise old_error(460101, "message too long, exceed 20000 bytes")
        shown = {"conversation": session.conversation, "person": session.person, "session_msgId": session.msg_id}
        self._journal.add("webhook", text=text, msgtype=kind, **shown)
        return {"errcode": 0, "errmsg": "ok"}


class Robot:
    """The routes under /v1.0/robot that show something."""

    def __init__(self, journal: Journal, spaces: Spaces, robot_code: str) -> None:
        self._journal = journal
        self._spaces = spaces
        self._code = robot_code
        self._sent = 0

    def to_people(self, body: Json) -> Json:
        """POST /v1.0/robot/oToMessages/batchSend. Without an idempotency key: sent twice is shown twice."""
        self._check_code(body)
        people = body.get("userIds")
        if not isinstance(people, list) or not people:
            raise bad_param("invalidParameter.userIds.empty")
        if len(people) > PEOPLE_A_CALL or not all(isinstance(one, str) and one for one in people):
            raise bad_param("invalidParameter.userIds.invalid")
        text, query = _words(body), self._query()
        for staff in people:
            conversation = self._spaces.talk(staff)
            self._show(body, text, query, target={"person": staff}, conversation=conversation, person=staff)
        return {
            "processQueryKey": query,
            "invalidStaffIdList": [],
            "flowControlledStaffIdList": [],
            "filteredStaffIdList": [],
        }

    def to_group(self, body: Json) -> Json:
        """POST /v1.0/robot/groupMessages/send. Without an idempotency key."""
        self._check_code(body)
        group = body.get("openConversationId")
        if not isinstance(group, str) or not group:
            raise bad_param("invalidParameter.openConversationId.invalid")
        text = _words(body)
        if len(str(body["msgParam"]).encode()) > GROUP_BYTES:
            raise bad_param("invalidParameter.msgParam.invalid", "longer than 15000 bytes")
        query = self._query()
        self._show(body, text, query, target={"conversation": group}, conversation=group, person="")
        return {"processQueryKey": query}

    def react(self, body: Json) -> Json:
        """POST /v1.0/robot/emotion/reply."""
        return self._reaction("reacted", body)

    def unreact(self, body: Json) -> Json:
        """POST /v1.0/robot/emotion/recall."""
        return self._reaction("unreacted", body)

    def _reaction(self, kind: str, body: Json) -> Json:
        self._check_code(body)
        message, conversation = body.get("openMsgId"), body.get("openConversationId")
        if not isinstance(message, str) or not isinstance(conversation, str):
            raise bad_param("invalidParameter.openMsgId.empty")
        self._journal.add(kind, msgId=message, conversation=conversation, name=body.get("emotionName"))
        return {"success": True}

    def _show(self, body: Json, text: str, query: str, **shown: Any) -> None:
        self._journal.add("proactive", text=text, msgKey=body["msgKey"], processQueryKey=query, **shown)

    def _check_code(self, body: Json) -> None:
        if not body.get("robotCode"):
            raise bad_param("invalidParameter.robotCode.empty")
        if body["robotCode"] != self._code:
            raise bad_param("invalidParameter.robotCode.invalid")

    def _query(self) -> str:
        self._sent += 1
        return f"pqk-{self._sent}"


def _words(body: Json) -> str:
    """The text in `msgParam`, which is a JSON object in a string."""
    raw = body.get("msgParam")
    if str(body.get("msgKey")) not in MESSAGE_KEYS:
        raise bad_param("invalidParameter.msgKey.invalid")
    try:
        param = msgspec.json.decode(raw) if isinstance(raw, str) else None
    except msgspec.DecodeError:
        param = None
    if not isinstance(param, dict):
        raise bad_param("invalidParameter.msgParam.invalid", "no JSON object in a string")
    words = param.get("content", param.get("text", raw))
    return words if isinstance(words, str) else str(raw)
