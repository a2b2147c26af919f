"""Bodies of calls, and texts cut to size."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.channels.dingtalk import cards
from app.message import Address

GROUP = Address(channel="dingtalk", robot="bot", chat="cid1=", group=True, person="staff042", nick="Ann")
ALONE = Address(channel="dingtalk", robot="bot", chat="cid2=", group=False, person="staff042")


def test_a_card_for_a_group_mentions_the_person() -> None:
    body = cards.create_body("m1", GROUP, "…", template="t.schema", key="content")

    assert body["openSpaceId"] == "dtv1.card//IM_GROUP.cid1="
    assert body["imGroupOpenDeliverModel"] == {"robotCode": "bot", "atUserIds": {"staff042": "Ann"}}
    assert body["cardData"] == {"cardParamMap": {"content": "…", "flowStatus": "1"}}
    assert body["callbackType"] == "STREAM"


def test_a_card_for_one_person_goes_to_the_person() -> None:
    body = cards.create_body("m1", ALONE, "…", template="t.schema", key="content")

    assert body["openSpaceId"] == "dtv1.card//IM_ROBOT.staff042"
    assert body["imRobotOpenDeliverModel"] == {"spaceType": "IM_ROBOT", "robotCode": "bot"}


def test_the_same_message_has_the_same_card_and_another_one_another() -> None:
    assert cards.track_id("dingtalk:bot:m1") == cards.track_id("dingtalk:bot:m1") != cards.track_id("dingtalk:bot:m2")


def test_an_update_replaces_the_whole_text_and_only_the_last_one_finishes() -> None:
    update = cards.update_body("m1", "a", guid="m1:1:1", key="content")
    finish = cards.finish_body("m1", "", guid="m1:final", key="content")

    assert (update["isFull"], update["isFinalize"], update["content"]) == (True, False, "a")
    assert (finish["isFull"], finish["isFinalize"], finish["content"]) == (True, True, " ")
    assert update["outTrackId"] == finish["outTrackId"] == cards.track_id("m1")
    assert update["guid"] != finish["guid"]


def test_a_webhook_message_mentions_the_person_in_both_places_in_a_group_only() -> None:
    group, alone = cards.webhook_body(GROUP, "## Done\nall"), cards.webhook_body(ALONE, "hi")

    assert group["markdown"] == {"title": "Done", "text": "## Done\nall\n\n@staff042"}
    assert group["at"]["atUserIds"] == ["staff042"]
    assert alone == {"msgtype": "markdown", "markdown": {"title": "hi", "text": "hi"}}


def test_the_param_of_a_robot_message_is_json_in_a_string() -> None:
    person, group = cards.person_body(ALONE, "好"), cards.group_body(GROUP, "好")

    assert person["userIds"] == ["staff042"]
    assert group["openConversationId"] == "cid1="
    assert json.loads(person["msgParam"]) == json.loads(group["msgParam"]) == {"title": "好", "text": "好"}


@pytest.mark.parametrize(
    ("text", "title"), [("", "…"), ("\n# **Bold**\nx", "Bold"), ("a" * 100, "a" * 60), ("```\ncode", "code")]
)
def test_a_title_is_the_first_line_that_says_something(text: str, title: str) -> None:
    assert cards.title(text) == title


def test_a_short_text_stays_whole() -> None:
    assert cards.split("one\n\ntwo") == ["one\n\ntwo"]
    assert cards.split("") == [""]


def test_a_text_is_cut_at_a_paragraph_if_there_is_one() -> None:
    first, second = "a " * 100, "b " * 100

    assert cards.split(f"{first}\n\n{second}", 300) == [first, second]


def test_a_long_line_is_cut_behind_a_sentence() -> None:
    parts = cards.split("这是一句话。" * 200, 300)

    assert all(part.endswith("。") and len(part) <= 300 for part in parts)
    assert "".join(parts) == "这是一句话。" * 200


def test_a_code_block_that_is_cut_is_closed_and_opened_again() -> None:
    code = "".join(f"line {n}\n" for n in range(100))

    parts = cards.split(f"Look:\n```python\n{code}```\nThat is all.", 300)

    assert all(part.count("```") == 2 for part in parts[:-1])
    assert all(part.startswith("```python\n") for part in parts[1:-1])
    assert "".join(re.sub(r"```(python)?\n?|Look:\n", "", part).strip() + "\n" for part in parts).startswith(code)


def words(text: str) -> str:
    """What must survive a cut: everything but blanks and the lines that open or close code blocks."""
    kept = [line for line in text.split("\n") if not (len(line) < 60 and re.match(r" {0,3}(```|~~~)", line))]
    return re.sub(r"\s", "", "".join(kept))


pieces = st.sampled_from(
    ["word ", "a" * 90, "好。", "\n", "\n\n", "```\n", "```py\n", "\n```\n", "~~~\n", "End. ", "x" * 400, "`a`"]
)


@given(st.lists(pieces, max_size=80).map("".join), st.integers(260, 500))
def test_a_cut_text_keeps_its_words_its_limit_and_its_code_blocks(text: str, limit: int) -> None:
    parts = cards.split(text, limit)

    assert all(len(part) <= limit for part in parts)
    assert words("\n".join(parts)) == words(text)
    assert all(not cards._fences(cards._lines(part, limit))[-1] for part in parts)


@given(st.text(max_size=2_000), st.integers(260, 500))
def test_any_text_is_cut_within_the_limit(text: str, limit: int) -> None:
    parts = cards.split(text, limit)

    assert all(len(part) <= limit for part in parts)
    assert re.sub(r"\s", "", "".join(parts)) == re.sub(r"\s", "", text) or "```" in text or "~~~" in text
