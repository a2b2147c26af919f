"""Bodies of the platform's calls, and texts cut to its size. Pure.

Source: im-protocols, sections 4.1, 4.3 and 5.
"""

import hashlib
import re
from typing import Any, Final

import msgspec

from app.message import Address

Json = dict[str, Any]

TEXT_LIMIT: Final = 3_500  # characters; longer Markdown may not be shown (4.1)
TITLE_LIMIT: Final = 60
FENCE_LIMIT: Final = 60  # characters of a line that may open a code block

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})([^\n]*)\n?\Z")
_BORDERS = (re.compile(r".*[。！？!?；;](?=.)|.*\.(?=\s)", re.DOTALL), re.compile(r".*[\s，,、]", re.DOTALL))
_MARKUP = re.compile(r"[#>*_`~\[\]]+")


def track_id(message_id: str) -> str:
    """The card's id at the platform; the same message has the same card after every crash."""
    return f"sy-{hashlib.sha256(message_id.encode()).hexdigest()[:40]}"


def create_body(card: str, address: Address, text: str, *, template: str, key: str) -> Json:
    """Create and deliver a card with a first text: an empty one may stay blank for ever."""
    body: Json = {
        "cardTemplateId": template,
        "outTrackId": track_id(card),
        "callbackType": "STREAM",
        "cardData": {"cardParamMap": {key: text, "flowStatus": "1"}},
        "userIdType": 1,
    }
    return body | (_group_space(address) if address.group else _person_space(address))


def _group_space(address: Address) -> Json:
    mentioned = {address.person: address.nick or address.person} if address.person else {}
    return {
        "openSpaceId": f"dtv1.card//IM_GROUP.{address.chat}",
        "imGroupOpenSpaceModel": {"supportForward": True},
        "imGroupOpenDeliverModel": {"robotCode": address.robot, "atUserIds": mentioned},
    }


def _person_space(address: Address) -> Json:
    return {
        "openSpaceId": f"dtv1.card//IM_ROBOT.{address.person}",
        "imRobotOpenSpaceModel": {"supportForward": True},
        "imRobotOpenDeliverModel": {"spaceType": "IM_ROBOT", "robotCode": address.robot},
    }


def update_body(card: str, text: str, *, guid: str, key: str) -> Json:
    """Replace the text of a card that goes on typing."""
    return _streaming_body(card, text, guid=guid, key=key) | {"isFinalize": False}


def finish_body(card: str, text: str, *, guid: str, key: str) -> Json:
    """Replace the text of a card and end the typing."""
    return _streaming_body(card, text, guid=guid, key=key) | {"isFinalize": True}


def fail_body(card: str, text: str, *, guid: str, key: str) -> Json:
    """Replace the text of a card and show that it failed."""
    return _streaming_body(card, text, guid=guid, key=key) | {"isFinalize": False, "isError": True}


def failed_body(card: str, text: str, *, key: str) -> Json:
    """The same by the card's variables, for a card that takes no more streaming."""
    return {
        "outTrackId": track_id(card),
        "cardData": {"cardParamMap": {key: text or " ", "flowStatus": "5"}},
        "cardUpdateOptions": {"updateCardDataByKey": True},  # without it every other variable would be erased
    }


def _streaming_body(card: str, text: str, *, guid: str, key: str) -> Json:
    return {
        "outTrackId": track_id(card),
        "guid": hashlib.sha256(guid.encode()).hexdigest()[:40],
        "key": key,
        "content": text or " ",  # an empty text is refused
        "isFull": True,  # Markdown variables must be replaced as a whole
        "isError": False,
    }


def webhook_body(address: Address, text: str) -> Json:
    """A Markdown message for the session's webhook; in a group it mentions the person, which takes two places."""
    person = address.person if address.group else ""
    shown = f"{text}\n\n@{person}" if person else text
    body: Json = {"msgtype": "markdown", "markdown": {"title": title(text), "text": shown}}
    return body | ({"at": {"atUserIds": [person], "isAtAll": False}} if person else {})


def person_body(address: Address, text: str) -> Json:
    """A Markdown message of the robot's own to one person."""
    return {"robotCode": address.robot, "userIds": [address.person], **_markdown_param(text)}


def group_body(address: Address, text: str) -> Json:
    """A Markdown message of the robot's own to a group."""
    return {"robotCode": address.robot, "openConversationId": address.chat, **_markdown_param(text)}


def _markdown_param(text: str) -> Json:
    return {"msgKey": "sampleMarkdown", "msgParam": msgspec.json.encode({"title": title(text), "text": text}).decode()}


def title(text: str) -> str:
    """What the list of chats shows: the first line that says something, without markup."""
    lines = (_MARKUP.sub("", line).strip() for line in text.splitlines())
    return next(filter(None, lines), "…")[:TITLE_LIMIT]


def split(text: str, limit: int = TEXT_LIMIT) -> list[str]:
    """Cut a text into parts of at most `limit` characters, on borders of paragraphs, else lines, else sentences.

    A code block that is cut is closed and opened again. Blank lines at the cuts are dropped, nothing else. `limit` is
    at least 260, so that a line that opens a block, its end and some text always fit.
    """
    lines = _lines(text, limit - 2 * (FENCE_LIMIT + 2))
    fences = _fences(lines)
    parts, start = [], 0
    while start < len(lines):
        end = _cut(lines, fences, start, limit)
        part = _reopening(fences[start]) + "".join(lines[start:end])
        if part.strip():
            parts.append(part.strip("\n") + _closing(fences[end]))
        start = end
    return parts or [text]


def _cut(lines: list[str], fences: list[str], start: int, limit: int) -> int:
    """Where the part that begins at line `start` ends: behind the last line that fits, or better a paragraph."""
    size, end, paragraph = len(_reopening(fences[start])), start, start
    for index in range(start, len(lines)):
        size += len(lines[index])
        if size + len(_closing(fences[index + 1])) > limit:
            return paragraph if paragraph > start else end
        end = index + 1
        if not lines[index].strip() and not fences[end] and size > limit // 2:
            paragraph = end
    return end


def _lines(text: str, room: int) -> list[str]:
    """The lines of a text; a line that is longer than `room` is cut on borders of sentences or words."""
    lines: list[str] = []
    for whole in re.findall(r"[^\n]*\n|[^\n]+", text):
        rest = whole
        while len(rest) > room:
            at = _border(rest[:room])
            lines.append(rest[:at])
            rest = rest[at:]
            if _FENCE.match(rest[:FENCE_LIMIT]):
                rest = f"    {rest}"  # so far to the right it opens nothing
        lines.append(rest)
    return lines


def _border(piece: str) -> int:
    """The best place to cut a long line: behind a sentence, behind a word, anywhere; never in its first half."""
    for border in _BORDERS:
        if (found := border.match(piece)) and found.end() > len(piece) // 2:
            return found.end()
    return len(piece)


def _fences(lines: list[str]) -> list[str]:
    """For each place between lines, the line that opened the code block there; empty outside of blocks."""
    states, opened = [""], ""
    for line in lines:
        found = _FENCE.match(line) if len(line) <= FENCE_LIMIT else None
        if found and not opened and not (found[1][0] == "`" and "`" in found[2]):
            opened = line
        elif found and opened and _marker(opened)[0] == found[1][0] and len(found[1]) >= len(_marker(opened)):
            opened = opened if found[2].strip() else ""
        states.append(opened)
    return states


def _marker(opened: str) -> str:
    found = _FENCE.match(opened)
    return found[1] if found else ""


def _reopening(opened: str) -> str:
    return opened if not opened or opened.endswith("\n") else f"{opened}\n"


def _closing(opened: str) -> str:
    return f"\n{_marker(opened)}" if opened else ""
