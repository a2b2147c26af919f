"""Frames and robot messages: what is read, what is refused, and that nothing else is ever raised."""

import contextlib
import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.channels.dingtalk.messages import ROBOT_OK, TEXT_LIMIT_BYTES, ack, body, decode, parse
from app.errors import MalformedFrame
from app.message import Attachment, Message
from tests.app.channels.dingtalk.frames import a_callback, a_frame

NOW = 1767000001.0

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def repr_start(value: Any) -> str:
    return repr(value[:20])


def read(**changes: Any) -> Message:
    message = parse(a_callback(**changes), arrived_at=NOW)
    assert message is not None
    return message


def test_a_text_of_a_group_is_read_whole() -> None:
    message = read(createAt=1767000000000)

    assert message.id == "dingtalk:dingsample0001:msgSAMPLE0001=="
    assert message.conversation == "dingtalk:dingsample0001:cidSAMPLE0001=:$%3ALWCP_v1%3A$ann=="
    assert (message.kind, message.text, message.sent_at) == ("text", "please summarise the incident", 1767000000.0)
    address = message.address
    assert (address.channel, address.robot, address.chat) == ("dingtalk", "dingsample0001", "cidSAMPLE0001=")
    assert (address.group, address.person, address.nick) == (True, "staff042", "Ann")
    assert address.webhook.endswith("session=SESS0001")
    assert address.webhook_expires_at == 1767005400.0


def test_a_text_between_two_is_no_group() -> None:
    assert read(conversationType="1").address.group is False


def test_somebody_outside_the_organisation_has_no_staff_id() -> None:
    data = a_callback()
    del data["senderStaffId"]

    message = parse(data, arrived_at=NOW)

    assert message is not None
    assert message.address.person == ""


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("  @Zoe look ", "@Zoe look"),
        ("@$:LWCP_v1:$botenc== hello", "hello"),
        ("@dingsample0001 hello", "hello"),
        ("\u2005hello", "hello"),
        ("\0 a\0b\ud83d", "ab"),
        ("", ""),
        (" \n ", ""),
    ],
)
def test_a_text_loses_blanks_the_robots_own_name_and_what_cannot_be_stored(content: str, text: str) -> None:
    message = read(text={"content": content})

    assert (message.kind, message.text) == ("text", text)


def test_a_text_that_is_too_long_is_named_so() -> None:
    kept, refused = read(text={"content": "好" * 66_000}), read(text={"content": "a" * (TEXT_LIMIT_BYTES + 1)})

    assert (kept.kind, len(kept.text)) == ("text", 66_000)
    assert (refused.kind, refused.platform_kind, refused.text) == ("unsupported", "text.too_long", "")


@pytest.mark.parametrize(
    "content",
    [
        {"downloadCode": "DC-1", "pictureDownloadCode": "PDC-1"},
        '{"downloadCode":"DC-1"}',
        {"downloadCode": "", "pictureDownloadCode": "DC-1"},
    ],
)
def test_a_picture_brings_a_code_also_when_its_content_is_a_string(content: Any) -> None:
    message = read(msgtype="picture", content=content)

    assert message.kind == "picture"
    assert message.attachments == (Attachment(kind="picture", code="DC-1"),)


@pytest.mark.parametrize(
    ("changes", "platform_kind"),
    [
        ({"msgtype": "richText", "content": {"richText": [{"text": "x"}]}}, "richText"),
        ({"msgtype": "audio", "content": {"downloadCode": "DC-3", "recognition": "x"}}, "audio"),
        ({"msgtype": "video", "content": {"downloadCode": "DC-4"}}, "video"),
        ({"msgtype": "file", "content": {"downloadCode": "DC-5", "fileName": "a.xlsx"}}, "file"),
        ({"msgtype": "unknownMsgType"}, "unknownMsgType"),
        ({"msgtype": None}, "unknown"),
        ({"msgtype": "text", "text": {"content": 5}}, "text"),
        ({"msgtype": "text", "text": "plain"}, "text"),
        ({"msgtype": "picture", "content": "[" * 100_000}, "picture"),
        ({"msgtype": "picture", "content": {"downloadCode": 7}}, "picture"),
    ],
)
def test_what_we_cannot_read_is_unsupported_and_keeps_its_name(changes: dict[str, Any], platform_kind: str) -> None:
    message = read(**changes)

    assert (message.kind, message.platform_kind, message.attachments) == ("unsupported", platform_kind, ())


@pytest.mark.parametrize("key", ["msgId", "conversationId", "senderId"])
@pytest.mark.parametrize("value", [None, "", 5, ["x"], "x" * 257, "a\0b", "\ud800", {"a": 1}])
def test_an_id_that_is_no_id_makes_the_frame_malformed(key: str, value: Any) -> None:
    with pytest.raises(MalformedFrame):
        parse(a_callback(**{key: value}), arrived_at=NOW)


@pytest.mark.parametrize("value", [None, "soon", float("nan"), -5, True, [], 10**400, 9e18])
def test_a_time_of_sending_that_is_none_becomes_the_time_of_arrival(value: Any) -> None:
    assert read(createAt=value).sent_at == NOW


def test_a_missing_robot_code_is_filled_in() -> None:
    message = parse(a_callback(robotCode=None), arrived_at=NOW, robot="ours")

    assert message is not None
    assert message.id == "dingtalk:ours:msgSAMPLE0001=="


def test_the_robots_own_words_are_not_answered() -> None:
    assert parse(a_callback(senderId="$:LWCP_v1:$botenc=="), arrived_at=NOW) is None


def test_ids_that_differ_in_their_first_characters_only_stay_apart() -> None:
    """One assistant answered the wrong person, because it kept only the end of the id."""
    first, second = (read(conversationId=f"{head}cidSAMESAMESAMESAME=") for head in "ab")

    assert first.conversation != second.conversation


def test_a_frame_is_read_from_both_spellings_and_both_shapes_of_data() -> None:
    frame = decode(a_frame({"a": 1}))
    odd = decode('{"type":"CALLBACK","header":{"topic":"t","messageId":"m"},"data":{"a":1},"more":[1]}')
    empty = decode(b'{"type":"SYSTEM","headers":{"topic":"KEEPALIVE"}}')

    assert (frame.type, frame.id, body(frame)) == ("CALLBACK", "0a1b2c3d_0001_stream", {"a": 1})
    assert (odd.topic, odd.id, body(odd)) == ("t", "m", {"a": 1})
    assert (empty.topic, empty.id, empty.data) == ("KEEPALIVE", "", "")


def test_half_a_surrogate_pair_does_not_spoil_a_frame() -> None:
    message = parse(body(decode(a_frame(a_callback(text={"content": "a\ud83d"})))), arrived_at=NOW)

    assert message is not None
    assert message.text == "a"


NO_FRAMES: list[str | bytes] = [
    *("", "nonsense", "[]", "5", "{", '{"type":5}', '{"headers":[]}', b"\xff\xfe", b"\0", "1" * 5000, "NaN"),
    *("[" * 1_000_000, '{"data":' * 100_000, "x" * 4_000_001, '{"headers":{"messageId":"' + "x" * 2000 + '"}}'),
]


@pytest.mark.parametrize("raw", NO_FRAMES, ids=repr_start)
def test_a_frame_that_is_none_is_refused(raw: str | bytes) -> None:
    with pytest.raises(MalformedFrame):
        decode(raw)


@pytest.mark.parametrize(
    "data", ["", "nonsense", "[]", "[" * 1_000_000, "1" * 5000, "\ud800", '{"a":NaN}'], ids=repr_start
)
def test_data_that_is_no_object_is_refused(data: str) -> None:
    with pytest.raises(MalformedFrame):
        body(decode(a_frame(data)))


def test_an_ack_echoes_the_delivery_and_holds_json_in_a_string() -> None:
    acked = json.loads(ack(decode(a_frame()), ROBOT_OK))

    assert acked["code"] == 200
    assert acked["headers"] == {"contentType": "application/json", "messageId": "0a1b2c3d_0001_stream"}
    assert json.loads(acked["data"]) == {"response": None}


@given(st.binary(max_size=200) | st.text(st.characters(), max_size=200))
def test_no_bytes_raise_anything_but_malformed_frame(raw: bytes | str) -> None:
    with contextlib.suppress(MalformedFrame):
        body(decode(raw))


@given(json_values)
def test_no_json_raises_anything_but_malformed_frame(value: Any) -> None:
    raw = json.dumps({"type": "CALLBACK", "headers": value, "data": value})
    try:
        frame = decode(raw)
        ack(frame, frame.data)
        parse(body(frame), arrived_at=NOW)
    except MalformedFrame:
        pass


@given(st.sampled_from(sorted(a_callback())), json_values, st.sampled_from(["text", "picture", "audio"]))
def test_no_wrong_field_raises_anything_but_malformed_frame(key: str, value: Any, kind: str) -> None:
    data = a_callback(msgtype=kind, content={"downloadCode": "x"})
    try:
        message = parse({**data, key: value}, arrived_at=NOW)
    except MalformedFrame:
        return
    if message is not None:
        json.dumps(message.text).encode()
        assert message.conversation.encode().isascii()


@given(st.randoms(use_true_random=False))
def test_no_damaged_sample_raises_anything_but_malformed_frame(source: random.Random) -> None:
    raw = bytearray(a_frame().encode())
    for _ in range(source.randint(1, 6)):
        raw[source.randrange(len(raw))] = source.randrange(256)
    with contextlib.suppress(MalformedFrame):
        parse(body(decode(bytes(raw))), arrived_at=NOW)


@given(st.text(st.characters(), max_size=50))
def test_a_leading_blank_never_survives(content: str) -> None:
    message = read(text={"content": content})

    assert message.text == message.text.strip()
    message.text.encode()


ids = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)


@given(st.tuples(ids, ids), st.tuples(ids, ids))
def test_different_chats_and_people_are_different_conversations(one: tuple[str, str], two: tuple[str, str]) -> None:
    first, second = (read(conversationId=chat, senderId=sender).conversation for chat, sender in (one, two))

    assert (first == second) == (one == two)
