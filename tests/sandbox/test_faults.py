"""Each fault does what it says."""

import time

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from sandbox.client import SandboxClient
from sandbox.probe import Probe, acknowledge, next_frame
from tests.sandbox.shapes import eventually, read

STREAM = "/v1.0/card/streaming"
CREATE = "/v1.0/card/instances/createAndDeliver"
OPEN = "/v1.0/gateway/connections/open"


def test_an_unacked_message_comes_again_with_a_new_delivery_id(app: Probe, sandbox: SandboxClient) -> None:
    socket = app.connect()
    sandbox.fault("redeliver_unacked", after_s=0.05)

    sandbox.send_text("hello")
    first, again = next_frame(socket), next_frame(socket)
    acknowledge(socket, again)
    eventually(sandbox, "acked")
    before = len(sandbox.log(0, "pushed"))

    assert read(first)["msgId"] == read(again)["msgId"]
    assert first["headers"]["messageId"] != again["headers"]["messageId"]
    time.sleep(0.2)  # four times the redelivery delay: an acknowledged message stays quiet
    assert len(sandbox.log(0, "pushed")) == before


def test_an_acked_message_comes_again_as_often_as_asked(app: Probe, sandbox: SandboxClient) -> None:
    socket = app.connect()
    sandbox.fault("redeliver_acked", times=2)

    sandbox.send_text("hello")
    for _ in range(3):
        acknowledge(socket, next_frame(socket))

    assert [event["delivery"] for event in eventually(sandbox, "acked", 3) and sandbox.log(0, "pushed")] == [1, 2, 3]


def test_one_message_can_ask_for_its_own_redeliveries(app: Probe, sandbox: SandboxClient) -> None:
    socket = app.connect()

    sandbox.send_text("hello", redeliveries=2, redeliver_after_s=0.01)
    frames = [next_frame(socket) for _ in range(3)]

    assert len({frame["headers"]["messageId"] for frame in frames}) == 3
    assert len({read(frame)["msgId"] for frame in frames}) == 1


def test_after_disconnect_nothing_is_pushed_and_the_socket_closes_later(app: Probe, sandbox: SandboxClient) -> None:
    leaving, staying = app.connect(), app.connect()

    sandbox.fault("disconnect", connection=0, close_after_s=0.2)
    told = next_frame(leaving, "disconnect")
    sandbox.send_many([{"text": str(n)} for n in range(10)])

    assert read(told) == {"reason": "connection is expired"}
    assert [read(next_frame(staying))["text"]["content"] for _ in range(10)] == [str(n) for n in range(10)]
    with pytest.raises(ConnectionClosed) as closed:
        next_frame(leaving)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1000


@pytest.mark.parametrize("reset", [False, True])
def test_a_drop_ends_the_connection_without_a_close_frame(app: Probe, sandbox: SandboxClient, reset: bool) -> None:
    socket = app.connect()

    sandbox.fault("drop", reset=reset)

    with pytest.raises(ConnectionClosed) as closed:
        next_frame(socket)
    assert closed.value.rcvd is None
    assert eventually(sandbox, "closed")


def test_a_torn_frame_never_ends(app: Probe, sandbox: SandboxClient) -> None:
    """A client must neither take half a frame for a whole one nor get what is pushed behind it."""
    torn, whole = app.connect(), app.connect()

    sandbox.fault("tear", connection=0)
    pushes = [{"text": "torn", "connection": 0}, {"text": "behind it", "connection": 0}]
    sandbox.send_many([*pushes, {"text": "whole", "connection": 1}])

    assert read(next_frame(whole))["text"]["content"] == "whole"
    with pytest.raises(ConnectionClosed) as closed:
        next_frame(torn)
    assert closed.value.rcvd is None
    assert [event["lost"] for event in sandbox.log(0, "pushed")] == [True, True, False]


def test_goodbyes_come_again_and_again_until_they_are_cleared(app: Probe, sandbox: SandboxClient) -> None:
    for _ in range(4):
        app.connect()

    sandbox.fault("disconnect_every", every_s=0.05, close_after_s=60)
    eventually(sandbox, "system", 3 + 4)  # four were welcomed
    sandbox.clear_faults()
    left = [connection["retired"] for connection in sandbox.connections()]

    assert sum(left) >= 3
    assert left == sorted(left, reverse=True)  # the oldest first


def test_the_log_says_when_nobody_gets_pushes(app: Probe, sandbox: SandboxClient) -> None:
    """The figure by which a client is judged that must always hold another connection."""
    app.connect()
    app.connect()
    told = sandbox.last()

    sandbox.fault("disconnect", connection=0, close_after_s=60)
    one_is_left = sandbox.log(told, "uncovered")
    sandbox.fault("disconnect", connection=1, close_after_s=60)
    app.connect()
    (covered,) = eventually(sandbox, "covered", since=told)

    assert one_is_left == []
    assert len(sandbox.log(told, "uncovered")) == 1
    assert covered["after_ms"] > 0


def test_a_client_behind_a_proxy_is_sent_back_through_it(app: Probe) -> None:
    opened = app.http.post(
        "/v1.0/gateway/connections/open",
        json={"clientId": app.box.client_id, "clientSecret": app.box.client_secret, "subscriptions": []},
        headers={"Accept": "application/json", "Host": "proxy.example:1234"},
    )

    assert opened.json()["endpoint"] == "ws://proxy.example:1234/connect"


def test_a_zombie_gives_no_pong_and_swallows_messages(app: Probe, sandbox: SandboxClient) -> None:
    socket = app.connect(ping_interval=None)
    alive = socket.ping().wait(5)

    sandbox.fault("zombie")
    pong = socket.ping()
    sandbox.send_text("into the void")

    assert alive
    assert not pong.wait(0.2)
    assert eventually(sandbox, "pushed")[0]["lost"]
    with pytest.raises(TimeoutError):
        next_frame(socket, timeout_s=0.1)


def test_a_mute_zombie_still_pongs(app: Probe, sandbox: SandboxClient) -> None:
    """The other kind of dead connection: the transport is well, and yet no frame arrives."""
    socket = app.connect(ping_interval=None)

    sandbox.fault("zombie", pong=True)

    assert socket.ping().wait(5)
    assert sandbox.send_text("into the void")["pushed"]
    assert eventually(sandbox, "pushed")[0]["lost"]


def test_the_next_connection_can_be_dead_from_birth(app: Probe, sandbox: SandboxClient) -> None:
    sandbox.fault("zombie", connection="next")

    dead, alive = app.connect(ping_interval=None), app.connect(ping_interval=None)

    assert alive.ping().wait(5)
    assert not dead.ping().wait(0.1)
    assert [connection["mute"] for connection in sandbox.connections()] == [True, False]


def test_opening_can_be_refused_and_slow(app: Probe, sandbox: SandboxClient) -> None:
    sandbox.fault("refuse_open", times=2)
    sandbox.fault("refuse_open", times=1, **{"as": "rejected"})
    statuses = [app.open().status_code for _ in range(4)]
    sandbox.fault("slow_open", delay_ms=200, times=1)
    started = time.monotonic()
    slow = app.open()

    assert statuses == [503, 503, 400, 200]
    assert slow.status_code == 200
    assert time.monotonic() - started >= 0.2


PLANNED = [
    ("qps", 403, "Forbidden.AccessDenied.QpsLimitForAppkeyAndApi"),
    ("qps_api", 403, "Forbidden.AccessDenied.QpsLimitForApi"),
    ("month", 403, "Forbidden.AccessDenied.ApiCountLimitForOrg"),
    ("permission", 403, "Forbidden.AccessDenied.AccessTokenPermissionDenied"),
    ("throttled", 429, "TooManyRequests"),
    ("timeout_before", 504, "GatewayTimeout"),
    ("busy", 500, "system.busy"),
    ("unknown", 500, "unknownError"),
    ("unavailable", 503, "ServiceUnavailable"),
    ("token", 400, "InvalidAuthentication"),
    ("unsafe", 400, "param.contentUnsafe"),
    ("too_large", 400, "param.stream.content"),
]


@pytest.mark.parametrize(("answer", "status", "code"), PLANNED)
def test_a_planned_refusal_comes_so_often_and_does_nothing(
    app: Probe, sandbox: SandboxClient, answer: str, status: int, code: str
) -> None:
    app.create_card("c1")
    sandbox.answer(STREAM, answer, times=2, retry_after_s=3)

    replies = [app.stream("c1", "text", "g1") for _ in range(3)]

    assert [reply.status_code for reply in replies] == [status, status, 200]
    assert replies[0].json()["code"] == code
    assert replies[0].headers.get("retry-after") == ("3" if answer == "throttled" else None)
    assert [event["text"] for event in sandbox.log(0, "updated")] == ["text"]
    assert [(event["code"], event["processed"]) for event in sandbox.log(0, "refused")] == [(code, False)] * 2


def test_a_permanent_answer_lasts_until_it_is_cleared(app: Probe, sandbox: SandboxClient) -> None:
    app.create_card("c1")
    sandbox.answer(STREAM, "busy", times=None)

    before = [app.stream("c1", "text", "g1").status_code for _ in range(3)]
    sandbox.clear_faults()

    assert before == [500, 500, 500]
    assert app.stream("c1", "text", "g1").status_code == 200


def test_a_timeout_after_processing_has_done_the_work(app: Probe, sandbox: SandboxClient) -> None:
    """The caller cannot know; a repeat with the same id must show nothing twice."""
    sandbox.answer(CREATE, "timeout_after")

    first, again = app.create_card("c1"), app.create_card("c1")

    assert (first.status_code, again.status_code) == (504, 200)
    assert len(sandbox.log(0, "created")) == 1
    assert sandbox.log(0, "refused")[0]["processed"]


def test_an_answer_can_come_too_late(app: Probe, sandbox: SandboxClient) -> None:
    app.create_card("c1")
    sandbox.answer(STREAM, "slow_after", delay_ms=300)

    with pytest.raises(httpx.ReadTimeout):
        app.http.put(
            STREAM,
            json={"outTrackId": "c1", "guid": "g", "key": "content", "content": "x", "isFull": True},
            headers={"x-acs-dingtalk-access-token": app.token()},
            timeout=0.1,
        )

    assert eventually(sandbox, "updated")


def test_a_card_can_fail_to_be_delivered_with_status_200(app: Probe, sandbox: SandboxClient) -> None:
    sandbox.answer(CREATE, "undelivered")

    answer = app.create_card("c1")

    assert answer.status_code == 200
    assert answer.json()["result"]["deliverResults"][0]["success"] is False
    assert sandbox.log(0, "created") == []


def test_a_proactive_message_can_fail_to_be_delivered_with_status_200(app: Probe, sandbox: SandboxClient) -> None:
    route = "/v1.0/robot/oToMessages/batchSend"
    sandbox.answer(route, "undelivered")

    body = {"robotCode": app.box.client_id, "userIds": ["u"], "msgKey": "sampleText", "msgParam": '{"content":"x"}'}
    answer = app.call("POST", route, body)

    assert answer.json()["flowControlledStaffIdList"] == ["u"]
    assert sandbox.log(0, "proactive") == []


def test_tokens_can_end_at_once(app: Probe, sandbox: SandboxClient) -> None:
    app.create_card("c1")

    sandbox.fault("expire_tokens")

    assert app.stream("c1", "x", "g").json()["code"] == "InvalidAuthentication"


def test_malformed_frames_reach_the_client_as_they_are(app: Probe, sandbox: SandboxClient) -> None:
    socket = app.connect(max_size=None)
    socket.recv(timeout=5)
    frames = ["no json", "", '{"type":"CALLBACK"}', "[" * 1000, "x" * 10_000_000]

    for text in frames:
        assert sandbox.raw(text) == 1
    assert sandbox.raw(b"\x00\xff") == 1

    assert [socket.recv(timeout=5) for _ in frames] == frames
    assert socket.recv(timeout=5) == b"\x00\xff"


def test_a_wrong_request_says_what_is_wrong(app: Probe, sandbox: SandboxClient) -> None:
    wrong = [
        ("faults", {"fault": "earthquake"}, "is no fault"),
        ("faults", {"fault": "answer", "route": STREAM, "as": "nonsense"}, "one of"),
        ("faults", {"fault": "drop", "connection": 7}, "no connection"),
        ("rules", {"qps": "many"}, "cannot be"),
        ("messages", {"messages": [7]}, "wrong type"),
        ("messages", {"kind": "picture", "picture": "?"}, "no base64"),
    ]
    for route, body, reason in wrong:
        answer = app.http.post(f"/sandbox/{route}", json=body)

        assert answer.status_code == 400
        assert reason in answer.json()["error"]


def test_a_bad_ticket_is_refused_before_the_upgrade(app: Probe, sandbox: SandboxClient) -> None:
    with pytest.raises(InvalidStatus) as refused:
        app.connect(ticket="nonsense")

    assert refused.value.response.status_code == 401
    assert sandbox.log(0, "refused")[0]["route"] == "/connect"
