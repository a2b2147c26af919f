"""Every frame and answer has exactly the shape of the platform's own samples."""

from collections.abc import Iterator
from typing import Any

import pytest

from sandbox.client import SandboxClient
from sandbox.frames import CARD_CALLBACK, encode, read_ack
from sandbox.probe import Probe, acknowledge, next_frame
from sandbox.process import Sandbox, running_sandbox
from tests.sandbox.shapes import eventually, read, sample, shape


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    """The samples' own app and template, so that their requests can be sent as they are."""
    names = ("--client-id", "dingsample0001", "--template", "00000000-aaaa-bbbb-cccc-000000000000.schema")
    with running_sandbox(*names) as running:
        yield running


def _without_time(frame: Any) -> Any:
    """The outer `time` of the sample is seen in some frames only; clients ignore it."""
    return {key: value for key, value in frame.items() if key != "time"}


def test_opening_has_the_samples_shape(app: Probe) -> None:
    request = sample("open_request") | {"clientSecret": app.box.client_secret}

    granted, refused = app.open(**request), app.open(clientSecret="wrong")

    assert (granted.status_code, shape(granted.json())) == (200, shape(sample("open_answer")))
    assert granted.json()["endpoint"].startswith("ws://127.0.0.1:")
    assert (refused.status_code, shape(refused.json())) == (400, shape(sample("open_refused")))


def test_a_callback_frame_has_the_samples_shape(app: Probe, sandbox: SandboxClient) -> None:
    """`data` is a JSON document inside a string, and `time` is a string of milliseconds."""
    socket = app.connect()

    sandbox.send_text("hello")

    assert shape(next_frame(socket)) == shape(_without_time(sample("frame_callback")))


def test_a_ping_has_the_samples_shape_and_takes_the_samples_ack(app: Probe, sandbox: SandboxClient) -> None:
    socket = app.connect()

    sandbox.system("ping")
    frame = next_frame(socket, "ping")
    ack = sample("ack_ping") | {"data": frame["data"]}
    ack["headers"]["messageId"] = frame["headers"]["messageId"]
    socket.send(encode(ack))
    sandbox.send_text("after the ping")
    acknowledge(socket, next_frame(socket))

    expected = sample("frame_ping")
    expected["headers"] |= {"appId": "a", "connectionId": "c"}
    assert shape(frame) == shape(expected)
    assert sample("ack")["code"] == read_ack(encode(sample("ack"))).code


def test_a_disconnect_has_the_samples_shape(app: Probe, sandbox: SandboxClient) -> None:
    socket = app.connect()

    sandbox.fault("disconnect", close_after_s=0.05)
    frame = next_frame(socket, "disconnect")

    expected = sample("frame_disconnect")
    expected["headers"] |= {"appId": "a", "connectionId": "c"}
    assert shape(frame) == shape(expected)
    assert frame["data"] == expected["data"]


def test_an_event_goes_out_as_in_the_sample(app: Probe, sandbox: SandboxClient) -> None:
    expected = sample("frame_event")
    extra = {key: value for key, value in expected["headers"].items() if key.startswith("event")}
    opened = app.open(subscriptions=[{"type": "EVENT", "topic": "*"}]).json()
    socket = app.connect(opened["ticket"])

    sandbox.callback(expected["data"], type="EVENT", topic="*", headers=extra)
    frame = next_frame(socket, "*")

    expected["headers"] |= {"appId": "a", "connectionId": "c"}
    assert (shape(frame), frame["data"]) == (shape(expected), expected["data"])


def test_a_click_goes_out_and_its_answer_comes_back_whole(app: Probe, sandbox: SandboxClient) -> None:
    """What a client answers to a click changes the card, so it is kept in the log."""
    socket = app.connect()

    sandbox.callback(sample("card_click"), topic=CARD_CALLBACK)
    acknowledge(socket, next_frame(socket, CARD_CALLBACK), data=sample("card_click_ack"))

    assert eventually(sandbox, "acked")[0]["data"] == sample("card_click_ack")


@pytest.mark.parametrize(("name", "group"), [("message_group_text", True), ("message_one_to_one_text", False)])
def test_a_text_has_the_samples_shape(app: Probe, sandbox: SandboxClient, name: str, group: bool) -> None:
    socket, expected = app.connect(), sample(name)
    bot_only = expected | ({"atUsers": expected["atUsers"][:1]} if group else {})

    sandbox.send_text("please summarise the incident", group=group, sender="$:LWCP_v1:$ann==", staff="staff042")
    data = read(next_frame(socket))

    assert shape(data) == shape(bot_only)
    assert data["text"] == expected["text"]
    assert data["sessionWebhookExpiredTime"] - data["createAt"] in range(5_399_000, 5_401_000)


def test_a_picture_and_an_outsider_have_the_samples_shapes(app: Probe, sandbox: SandboxClient) -> None:
    socket = app.connect()

    sandbox.picture(b"picture")
    picture = read(next_frame(socket))
    sandbox.send_text("hi", staff=None)
    outsider = read(next_frame(socket))

    assert shape(picture) == shape(sample("message_picture"))
    assert shape(outsider) == shape(sample("message_from_outside"))


KINDS = ["rich_text", "audio", "video", "file", "unknown", "quoting"]


@pytest.mark.parametrize("name", KINDS)
def test_any_recorded_message_goes_out_unchanged(app: Probe, sandbox: SandboxClient, name: str) -> None:
    socket, expected = app.connect(), sample(f"message_{name}")

    sandbox.callback(expected)

    assert read(next_frame(socket)) == expected


@pytest.mark.parametrize("name", ["text", "markdown", "action_card", "link", "feed_card"])
def test_the_session_webhook_takes_every_sample(app: Probe, sandbox: SandboxClient, name: str) -> None:
    socket = app.connect()
    sandbox.send_text("hello")
    webhook = read(next_frame(socket))["sessionWebhook"]

    sent = app.http.post(webhook, json=sample(f"webhook_{name}"))
    sandbox.fault("expire_webhooks")
    late = app.http.post(webhook, json=sample(f"webhook_{name}"))

    assert (sent.status_code, sent.json()) == (200, sample("webhook_answer"))
    assert (late.status_code, late.json()) == (200, sample("webhook_expired"))


CALLS = [
    ("POST", "/v1.0/robot/oToMessages/batchSend", "to_people"),
    ("POST", "/v1.0/robot/groupMessages/send", "to_group"),
    ("POST", "/v1.0/robot/emotion/reply", "reaction"),
    ("POST", "/v1.0/robot/emotion/recall", "reaction"),
]


@pytest.mark.parametrize(("method", "route", "name"), CALLS)
def test_the_robots_calls_answer_as_in_the_samples(app: Probe, method: str, route: str, name: str) -> None:
    answer = app.call(method, route, sample(f"{name}_request"))

    assert (answer.status_code, shape(answer.json())) == (200, shape(sample(f"{name}_answer")))


def test_a_card_answers_as_in_the_samples(app: Probe, sandbox: SandboxClient) -> None:
    created = app.call("POST", "/v1.0/card/instances/createAndDeliver", sample("card_create_group"))
    alone = app.call("POST", "/v1.0/card/instances/createAndDeliver", sample("card_create_one_to_one"))
    typed = app.call("PUT", "/v1.0/card/streaming", sample("card_stream_request"))
    changed = app.call("PUT", "/v1.0/card/instances", sample("card_update_request"))

    assert shape(created.json()) == shape(alone.json()) == shape(sample("card_create_answer"))
    assert created.json()["result"]["outTrackId"] == sample("card_create_answer")["result"]["outTrackId"]
    assert typed.json() == sample("card_stream_answer")
    assert changed.json() == sample("card_update_answer")


def test_tokens_and_refusals_have_the_samples_shapes(app: Probe, sandbox: SandboxClient) -> None:
    box, body = app.box, sample("card_stream_request")
    granted = app.http.post("/v1.0/oauth2/accessToken", json=sample("token_request") | {"appSecret": box.client_secret})
    old = app.http.get("/gettoken", params={"appkey": box.client_id, "appsecret": box.client_secret})
    bad = app.call("PUT", "/v1.0/card/streaming", body, token="stale")
    sandbox.answer("/v1.0/card/streaming", "permission")
    denied = app.call("PUT", "/v1.0/card/streaming", body)
    sandbox.answer("/v1.0/card/streaming", "qps")
    busy = app.call("PUT", "/v1.0/card/streaming", body)

    assert shape(granted.json()) == shape(sample("token_answer"))
    assert shape(old.json()) == shape(sample("old_token_answer"))
    assert (bad.status_code, shape(bad.json())) == (400, shape(sample("token_refused")))
    assert (denied.status_code, shape(denied.json())) == (403, shape(sample("permission_denied")))
    assert (busy.status_code, busy.json()["code"]) == (403, sample("qps_refused")["code"])


def test_files_answer_as_in_the_samples(app: Probe, sandbox: SandboxClient) -> None:
    """A picture with line ends in it comes through both ways byte for byte."""
    picture = b"\x89PNG\r\n\x1a\n\r\n--\x00\r\n"
    socket, token = app.connect(), app.token()
    sandbox.picture(picture)
    code = read(next_frame(socket))["content"]["downloadCode"]

    link = app.call("POST", "/v1.0/robot/messageFiles/download", sample("download_request") | {"downloadCode": code})
    upload = app.http.post(
        "/media/upload", params={"access_token": token, "type": "image"}, files={"media": ("a.png", picture)}
    )

    assert shape(link.json()) == shape(sample("download_answer"))
    assert app.http.get(link.json()["downloadUrl"]).content == picture
    assert shape(upload.json()) == shape(sample("upload_answer"))
    assert sandbox.log(0, "uploaded")[-1]["bytes"] == len(picture)
