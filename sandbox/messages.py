"""What a person says, as the data of a robot message: from the short form of a test to the platform's full form."""

from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Robot:
    """The robot to which people talk."""

    code: str
    corp: str = "dingcorp001"
    user_id: str = "$:LWCP_v1:$botenc=="


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who writes. `staff` is None for people outside the organisation."""

    id: str
    staff: str | None
    nick: str


def person_of(request: Json) -> Person:
    """The sender of a request: `sender` may be a short name such as "ann"; `staff` null means an outsider."""
    sender = str(request.get("sender", "ann"))
    short = "".join(c for c in sender if c.isalnum() or c in "-_") if sender.startswith("$:") else sender
    return Person(
        id=sender if sender.startswith("$:") else f"$:LWCP_v1:${sender}==",
        staff=request.get("staff", f"staff-{short}"),
        nick=str(request.get("nick", short.capitalize())),
    )


def conversation_of(request: Json, person: Person) -> str:
    """The conversation of a request; without one, the person's own talk with the robot, or the one group."""
    given = request.get("conversation")
    if given is not None:
        return str(given)
    return "cidSANDBOXGROUP=" if request.get("group") else f"cid{person.staff or person.id}="


def envelope(request: Json, *, robot: Robot, msg_id: str, created_ms: int, webhook: str, expires_ms: int) -> Json:
    """The fields that every robot message has, in a group (type "2") or one to one (type "1")."""
    person = person_of(request)
    data: Json = {
        "conversationId": conversation_of(request, person),
        "conversationType": "2" if request.get("group") else "1",
        "chatbotCorpId": robot.corp,
        "chatbotUserId": robot.user_id,
        "msgId": msg_id,
        "senderId": person.id,
        "senderNick": person.nick,
        "isAdmin": False,
        "senderPlatform": "Mac",
        "createAt": created_ms,
        "sessionWebhook": webhook,
        "sessionWebhookExpiredTime": expires_ms,
        "robotCode": robot.code,
    }
    if person.staff is not None:
        data |= {"senderStaffId": person.staff, "senderCorpId": robot.corp}
    if request.get("group"):
        data |= {
            "conversationTitle": str(request.get("title", "Sandbox group")),
            "atUsers": [{"dingtalkId": robot.user_id}],
            "isInAtList": True,
        }
    return data


def content(request: Json, download_code: str | None) -> Json:
    """The part that changes with the kind. In a group the platform cuts out the @name and leaves a blank."""
    if download_code is not None:
        return {
            "msgtype": "picture",
            "content": {"downloadCode": download_code, "pictureDownloadCode": f"P{download_code}"},
        }
    text = str(request.get("text", ""))
    return {"msgtype": "text", "text": {"content": f" {text}" if request.get("group") else text}}


def merged(data: Json, changes: Json) -> Json:
    """`data` with the fields of `changes` over it; a null takes a field away."""
    whole = {**data, **changes}
    return {key: value for key, value in whole.items() if not (key in changes and value is None)}
