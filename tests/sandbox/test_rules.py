"""Each rule by which the platform refuses, and what people see when it does not."""

from typing import Any

import pytest

from sandbox.client import SandboxClient
from sandbox.probe import Probe, next_frame
from tests.sandbox.shapes import read

UPDATE = "/v1.0/card/instances"
CREATE = "/v1.0/card/instances/createAndDeliver"
STREAM = "/v1.0/card/streaming"


def _refusal(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def test_a_card_is_seen_from_its_first_text_to_its_last(app: Probe, sandbox: SandboxClient) -> None:
    """Every event names the conversation and the person to whom it was shown."""
    app.connect()
    talk = sandbox.send_text("hello")["conversation"]

    app.create_card("c1", cardData={"cardParamMap": {"content": "thinking"}})
    app.stream("c1", "half", "g1")
    app.stream("c1", "whole", "g2", isFinalize=True)

    shown = sandbox.log(0, "created", "updated", "finished")
    assert [(event["kind"], event["text"]) for event in shown] == [
        ("created", "thinking"),
        ("updated", "half"),
        ("finished", "whole"),
    ]
    assert {(event["conversation"], event["person"]) for event in shown} == {(talk, "staff-ann")}
    assert [(card["state"], card["text"], card["updates"]) for card in sandbox.cards()] == [("finished", "whole", 2)]


def test_a_repeated_out_track_id_shows_nothing_new(app: Probe, sandbox: SandboxClient) -> None:
    first = app.create_card("c1")
    again = app.create_card("c1", cardData={"cardParamMap": {"content": "other"}})

    assert first.json() == again.json()
    assert [event["text"] for event in sandbox.log(0, "created")] == [""]
    assert sandbox.log(0, "repeated")[0]["what"] == "create"


def test_a_repeated_out_track_id_can_be_told(app: Probe, sandbox: SandboxClient) -> None:
    """Both answers are documented, so a client must take both for a success."""
    sandbox.rules(repeated_create="exists")

    app.create_card("c1")

    assert _refusal(app.create_card("c1")) == (400, "param.cardAlreadyExist")


def test_a_repeated_guid_succeeds_and_changes_nothing(app: Probe, sandbox: SandboxClient) -> None:
    app.create_card("c1")

    answers = [app.stream("c1", text, "g1", isFinalize=True) for text in ("once", "twice")]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert [event["text"] for event in sandbox.log(0, "finished")] == ["once"]


def test_nothing_changes_a_card_that_has_ended(app: Probe, sandbox: SandboxClient) -> None:
    app.create_card("c1")
    app.stream("c1", "whole", "g1", isFinalize=True)

    streamed = app.stream("c1", "more", "g2")
    updated = app.call("PUT", UPDATE, {"outTrackId": "c1", "cardData": {"cardParamMap": {"content": "more"}}})

    assert (streamed.status_code, updated.status_code) == (400, 400)
    assert sandbox.cards()[0]["text"] == "whole"


def test_a_card_can_end_as_failed(app: Probe, sandbox: SandboxClient) -> None:
    app.create_card("c1")

    app.stream("c1", "sorry", "g1", isError=True)

    assert sandbox.log(0, "finished")[0]["state"] == "failed"


def test_text_is_appended_unless_it_is_full(app: Probe, sandbox: SandboxClient) -> None:
    app.create_card("c1")

    app.stream("c1", "one", "g1", isFull=False)
    app.stream("c1", " two", "g2", isFull=False)
    app.stream("c1", "three", "g3")

    assert [event["text"] for event in sandbox.log(0, "updated")] == ["one", "one two", "three"]


def test_a_card_is_failed_by_its_variables_and_the_same_values_again_change_nothing(
    app: Probe, sandbox: SandboxClient
) -> None:
    app.create_card("c1")
    params = {"content": "sorry", "flowStatus": "5"}
    body = {
        "outTrackId": "c1",
        "cardData": {"cardParamMap": params},
        "cardUpdateOptions": {"updateCardDataByKey": True},
    }
    other = {**body, "cardData": {"cardParamMap": {**params, "content": "other"}}}

    answers = [app.call("PUT", UPDATE, one).status_code for one in (body, body, other)]

    assert answers == [200, 200, 400]
    assert (sandbox.cards()[0]["state"], sandbox.cards()[0]["text"]) == ("failed", "sorry")
    assert [event["state"] for event in sandbox.log(0, "finished")] == ["failed"]


@pytest.mark.parametrize(
    ("options", "left"),
    [({}, {"status": "new"}), ({"updateCardDataByKey": True}, {"content": "", "flowStatus": "1", "status": "new"})],
)
def test_an_update_overwrites_the_whole_map_unless_by_key(
    app: Probe, sandbox: SandboxClient, options: dict[str, bool], left: dict[str, str]
) -> None:
    app.create_card("c1")

    body = {"outTrackId": "c1", "cardData": {"cardParamMap": {"status": "new"}}, "cardUpdateOptions": options}
    app.call("PUT", UPDATE, body)

    assert sandbox.cards()[0]["params"] == left


BAD_UPDATES = [
    ({"key": "wrong"}, 500, "unknownError"),
    ({"outTrackId": "nobody"}, 400, "param.stream.outTrackId"),
    ({"guid": ""}, 400, "param.stream.guidEmpty"),
    ({"key": ""}, 400, "param.stream.keyEmpty"),
    ({"content": ""}, 400, "param.stream.contentEmpty"),
    ({"content": 7}, 400, "param.stream.contentEmpty"),
    ({"isFull": "yes"}, 400, "param.stream.isFull"),
]


@pytest.mark.parametrize(("change", "status", "code"), BAD_UPDATES)
def test_a_wrong_streaming_update_is_refused(
    app: Probe, sandbox: SandboxClient, change: dict[str, Any], status: int, code: str
) -> None:
    app.create_card("c1")

    body = {"outTrackId": "c1", "guid": "g1", "key": "content", "content": "text", "isFull": True, **change}

    assert _refusal(app.call("PUT", STREAM, body)) == (status, code)
    assert sandbox.log(0, "updated") == []


BAD_CREATES = [
    ({"outTrackId": ""}, "param.outTrackIdEmpty"),
    ({"cardTemplateId": ""}, "param.cardTemplateIdEmpty"),
    ({"cardTemplateId": "other.schema"}, "param.templateNotExist"),
    ({"cardData": {}}, "param.cardPublicDataEmpty"),
    ({"cardData": {"cardParamMap": {"count": 3}}}, "param.invalid"),
    ({"openSpaceId": ""}, "param.openSpaceIdEmpty"),
    ({"openSpaceId": "IM_ROBOT.staff-ann"}, "param.openSpaceIdInvalid"),
    ({"openSpaceId": "dtv1.card//IM_GROUP.cid1="}, "param.openDeliverModelEmpty"),
    ({"imRobotOpenDeliverModel": {"robotCode": "other"}}, "param.openDeliverModelError"),
]


@pytest.mark.parametrize(("change", "code"), BAD_CREATES)
def test_a_wrong_create_is_refused(app: Probe, sandbox: SandboxClient, change: dict[str, Any], code: str) -> None:
    assert _refusal(app.create_card("c1", **change)) == (400, code)
    assert sandbox.cards() == []


PEOPLE, GROUP = "/v1.0/robot/oToMessages/batchSend", "/v1.0/robot/groupMessages/send"
BAD_SENDS = [
    (PEOPLE, {"robotCode": ""}, "invalidParameter.robotCode.empty"),
    (PEOPLE, {"userIds": []}, "invalidParameter.userIds.empty"),
    (PEOPLE, {"userIds": ["u"] * 21}, "invalidParameter.userIds.invalid"),
    (PEOPLE, {"msgKey": "sampleNothing"}, "invalidParameter.msgKey.invalid"),
    (PEOPLE, {"msgParam": {"content": "no string"}}, "invalidParameter.msgParam.invalid"),
    (GROUP, {"openConversationId": ""}, "invalidParameter.openConversationId.invalid"),
    (GROUP, {"msgParam": '{"content":"' + "x" * 15_000 + '"}'}, "invalidParameter.msgParam.invalid"),
]


@pytest.mark.parametrize(("route", "change", "code"), BAD_SENDS)
def test_a_wrong_proactive_message_is_refused(
    app: Probe, sandbox: SandboxClient, route: str, change: dict[str, Any], code: str
) -> None:
    good = {"robotCode": app.box.client_id, "msgKey": "sampleText", "msgParam": '{"content":"x"}'}
    body = {**good, "userIds": ["u"], "openConversationId": "cid1=", **change}

    assert _refusal(app.call("POST", route, body)) == (400, code)
    assert sandbox.log(0, "proactive") == []


def test_a_proactive_message_sent_twice_is_shown_twice(app: Probe, sandbox: SandboxClient) -> None:
    """There is no key here that would make the second call harmless."""
    app.connect()
    talk = sandbox.send_text("hello")["conversation"]
    body = {"robotCode": app.box.client_id, "userIds": ["staff-ann"], "msgKey": "sampleMarkdown"}

    for _ in range(2):
        app.call("POST", PEOPLE, body | {"msgParam": '{"title":"t","text":"done"}'})

    shown = sandbox.log(0, "proactive")
    assert [(event["text"], event["conversation"], event["target"]) for event in shown] == [
        ("done", talk, {"person": "staff-ann"})
    ] * 2


BAD_WEBHOOKS = [
    ({"msgtype": "image", "image": {}}, 40035),
    ({"msgtype": "text", "text": {"content": ""}}, 40035),
    ({"msgtype": "text", "text": {"content": "长" * 6_667}}, 460101),
]


@pytest.mark.parametrize(("body", "errcode"), BAD_WEBHOOKS)
def test_the_webhook_refuses_with_status_200(
    app: Probe, sandbox: SandboxClient, body: dict[str, Any], errcode: int
) -> None:
    socket = app.connect()
    sandbox.send_text("hello")

    answer = app.http.post(read(next_frame(socket))["sessionWebhook"], json=body)

    assert (answer.status_code, answer.json()["errcode"]) == (200, errcode)
    assert sandbox.log(0, "webhook") == []


@pytest.mark.parametrize("token", ["", "stale"])
def test_every_guarded_route_needs_a_good_token(app: Probe, sandbox: SandboxClient, token: str) -> None:
    routes = [("PUT", STREAM), ("POST", CREATE), ("PUT", UPDATE), ("POST", PEOPLE), ("POST", GROUP)]
    routes += [("POST", f"/v1.0/robot/{name}") for name in ("messageFiles/download", "emotion/reply", "emotion/recall")]

    refusals = {_refusal(app.call(method, route, {}, token=token)) for method, route in routes}

    assert refusals == {(400, "InvalidAuthentication")}


def test_wrong_credentials_get_no_token(app: Probe) -> None:
    wrong = {"appKey": app.box.client_id, "appSecret": "wrong"}

    new = app.http.post("/v1.0/oauth2/accessToken", json=wrong)
    old = app.http.get("/gettoken", params={"appkey": app.box.client_id, "appsecret": "wrong"})
    upload = app.http.post("/media/upload", params={"access_token": "stale", "type": "image"}, files={"media": b"x"})

    assert _refusal(new) == (400, "invalidClientIdOrSecret")
    assert (old.status_code, old.json()["errcode"]) == (200, 40089)
    assert (upload.status_code, upload.json()["errcode"]) == (200, 40014)


def test_the_limit_a_second_is_by_route(app: Probe, sandbox: SandboxClient) -> None:
    app.create_card("c1")
    sandbox.rules(qps=3, qps_of={CREATE: 1000})

    typed = [app.stream("c1", "x", f"g{n}") for n in range(30)]
    created = [app.create_card(f"c{n}").status_code for n in range(10)]

    refused = [answer for answer in typed if answer.status_code != 200]
    assert {_refusal(answer) for answer in refused} == {(403, "Forbidden.AccessDenied.QpsLimitForAppkeyAndApi")}
    assert len(sandbox.log(0, "updated")) == 30 - len(refused)
    assert created == [200] * 10


def test_the_month_is_for_all_routes_together(app: Probe, sandbox: SandboxClient) -> None:
    sandbox.rules(month=2)

    codes = [app.create_card("c1").status_code, app.stream("c1", "x", "g1").status_code]

    assert codes == [200, 200]
    assert _refusal(app.stream("c1", "y", "g2")) == (403, "Forbidden.AccessDenied.ApiCountLimitForOrg")


def test_without_accept_the_gateway_answers_in_xml(app: Probe) -> None:
    answer = app.http.post("/v1.0/gateway/connections/open", json={})

    assert answer.headers["content-type"].startswith("application/xml")


def test_a_body_that_is_no_json_object_is_refused(app: Probe) -> None:
    for content in (b"{", b"[]", b"\xff", b"[" * 100_000):
        answer = app.http.put(STREAM, content=content)

        assert _refusal(answer) == (400, "InvalidParameter")
