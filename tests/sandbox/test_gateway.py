"""Tickets, the choice of a connection, acks, and the log; on the parts themselves where the clock matters."""

import asyncio
import json
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from sandbox.bounded import Bounded
from sandbox.client import SandboxClient
from sandbox.faults import Faults
from sandbox.frames import BOT_MESSAGES
from sandbox.gateway import Gateway, Push
from sandbox.journal import Journal
from sandbox.probe import Probe, acknowledge, next_frame
from sandbox.refusal import Refused
from sandbox.rules import Rules
from sandbox.sends import Sessions
from sandbox.tokens import Credentials, Quota, Tokens
from tests.sandbox.shapes import eventually, read

TOPICS = frozenset({("CALLBACK", BOT_MESSAGES)})


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Line:
    """A wire whose frames stay here."""

    def __init__(self) -> None:
        self.deaf = False
        self.frames: list[str | bytes] = []

    def push(self, content: str | bytes) -> bool:
        self.frames.append(content)
        return True

    def drop(self, *, reset: bool = False) -> None:
        self.frames.clear()

    def tear(self, content: str | bytes) -> None:
        self.frames.append(content[: len(content) // 2])


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gateway(clock: Clock) -> Gateway:
    rules = Rules(ping_s=0, keepalive_s=0, registered=False)
    return Gateway(Journal(), rules, Faults(), rng=random.Random(7), clock=clock)


def test_a_ticket_is_good_once_and_for_90_seconds(gateway: Gateway, clock: Clock) -> None:
    used, old = gateway.open(TOPICS), gateway.open(TOPICS)

    first = gateway.redeem(used)
    clock.now += 90

    assert first == TOPICS
    assert [gateway.redeem(used), gateway.redeem(old), gateway.redeem("made up")] == [None, None, None]


def test_each_push_goes_to_one_connection_at_random(gateway: Gateway) -> None:
    lines = [Line(), Line(), Line()]
    for line in lines:
        gateway.join(line, TOPICS, lambda: None)

    for n in range(300):
        gateway.push(Push(f"m{n}", "{}", BOT_MESSAGES))

    counts = [len(line.frames) for line in lines]
    assert sum(counts) == 300
    assert min(counts) > 50


def test_a_connection_gets_only_what_it_subscribed_to(gateway: Gateway) -> None:
    gateway.join(Line(), frozenset({("EVENT", "*")}), lambda: None)

    pushed = gateway.push(Push("m1", "{}", BOT_MESSAGES))

    assert not pushed
    assert gateway.journal.since(2, 10)[0]["kind"] == "unpushed"


def test_tokens_sessions_and_quotas_have_an_end(clock: Clock) -> None:
    rules = Rules(token_s=7200, webhook_s=5400, qps=1)
    tokens, quota = Tokens(Credentials("id", "secret"), rules, clock), Quota(rules, clock)
    sessions = Sessions(Journal(), rules, clock)
    token = tokens.grant({"appKey": "id", "appSecret": "secret"})["accessToken"]
    session, text = sessions.start("cid", "ann", "m1"), {"msgtype": "text", "text": {"content": "x"}}

    tokens.check(token)
    sessions.send(session, text)
    quota.spend("/route")
    with pytest.raises(Refused, match="403"):
        quota.spend("/route")
    clock.now += 7200

    quota.spend("/route")
    with pytest.raises(Refused, match="InvalidAuthentication"):
        tokens.check(token)
    with pytest.raises(Refused, match="300001"):
        sessions.send(session, text)


BAD_ACKS = [
    "no json",
    "[]",
    '{"code":200}',
    '{"code":"200","headers":{"messageId":"ID","contentType":"application/json"}}',
    '{"code":200,"headers":{"messageId":"ID"}}',
    '{"code":200,"headers":{"messageId":"ID","contentType":"application/json"},"data":{"response":null}}',
    '{"code":200,"headers":{"messageId":"ID","contentType":"application/json"},"data":"no json"}',
    '{"code":200,"headers":{"messageId":"unknown","contentType":"application/json"},"data":"{}"}',
]


@pytest.mark.parametrize("text", BAD_ACKS)
def test_a_malformed_ack_is_told_and_does_not_count(gateway: Gateway, text: str) -> None:
    line = Line()
    connection = gateway.join(line, TOPICS, lambda: None)
    gateway.push(Push("m1", "{}", BOT_MESSAGES))
    message_id = json.loads(line.frames[0])["headers"]["messageId"]

    gateway.received(connection, text.replace("ID", message_id))

    assert [event["kind"] for event in gateway.journal.since(2, 10)] == ["pushed", "bad_ack"]


def test_an_ack_counts_only_on_the_socket_that_delivered(app: Probe, sandbox: SandboxClient) -> None:
    first, other = app.connect(), app.connect()
    sandbox.send_text("hello", connection=0)
    frame = next_frame(first)

    acknowledge(other, frame)
    eventually(sandbox, "bad_ack")
    acknowledge(first, frame)

    assert "another socket" in sandbox.log(0, "bad_ack")[0]["reason"]
    assert eventually(sandbox, "acked")[0]["code"] == 200


def test_a_ping_must_be_answered_with_its_own_data(app: Probe, sandbox: SandboxClient) -> None:
    socket = app.connect()
    sandbox.system("ping")

    acknowledge(socket, next_frame(socket, "ping"), data={"opaque": "other"})

    assert "ping" in eventually(sandbox, "bad_ack")[0]["reason"]


def test_pings_and_keepalives_come_by_themselves(app: Probe, sandbox: SandboxClient) -> None:
    sandbox.rules(ping_s=0.02, keepalive_s=0.03)

    socket = app.connect()

    assert read(next_frame(socket, "REGISTERED")) == {}
    assert [next_frame(socket, "ping")["type"] for _ in range(2)] == ["SYSTEM"] * 2
    assert next_frame(socket, "KEEPALIVE")["type"] == "SYSTEM"


def test_a_batch_is_pushed_in_order_and_can_be_spread_over_sockets(app: Probe, sandbox: SandboxClient) -> None:
    """One person's messages, sent in one breath, must still be told apart by their time of sending."""
    sockets = [app.connect(), app.connect()]

    sent = sandbox.send_many([{"text": str(n), "connection": n % 2} for n in range(20)])
    heard = [[read(next_frame(socket)) for _ in range(10)] for socket in sockets]

    assert [data["text"]["content"] for data in heard[0]] == [str(n) for n in range(0, 20, 2)]
    by_time = sorted(heard[0] + heard[1], key=lambda data: int(data["createAt"]))
    assert [data["msgId"] for data in by_time] == [message["msgId"] for message in sent]


def test_without_a_connection_a_message_is_not_pushed(sandbox: SandboxClient) -> None:
    assert not sandbox.send_text("anybody?")["pushed"]
    assert len(sandbox.log(0, "unpushed")) == 1


def test_waiting_ends_with_the_answer_in_that_conversation(app: Probe, sandbox: SandboxClient) -> None:
    route, after = "/v1.0/robot/groupMessages/send", sandbox.last()
    body = {"robotCode": app.box.client_id, "msgKey": "sampleText", "msgParam": '{"content":"hello"}'}
    app.token()

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(sandbox.wait_for_reply, "cid2=", after)
        for group in ("cid1=", "cid2="):
            app.call("POST", route, {**body, "openConversationId": group})
        event = waiting.result(10)

    assert event is not None
    assert (event["conversation"], event["text"]) == ("cid2=", "hello")
    assert sandbox.wait_for_reply("cid2=", event["seq"], timeout_s=0.05) is None


def test_the_log_is_numbered_without_gaps_and_survives_a_reset(app: Probe, sandbox: SandboxClient) -> None:
    before = sandbox.reset()

    app.connect()
    eventually(sandbox, "system")
    events = sandbox.log(before)

    assert [event["seq"] for event in events] == list(range(before + 1, before + 1 + len(events)))
    assert [event["kind"] for event in events] == ["opened", "connected", "covered", "system"]
    assert sandbox.log(events[-1]["seq"]) == []


async def test_the_log_keeps_the_newest_events() -> None:
    journal = Journal(limit=100)
    for n in range(1000):
        journal.add("webhook", conversation=f"c{n}", text="")

    kept = journal.since(0, 10_000)

    assert 100 <= len(kept) <= 110
    assert kept[-1]["seq"] == 1000
    assert (await journal.answer("c999", 0, 1)) == kept[-1]
    assert (await journal.answer("c0", 0, 0.01)) is None
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_a_bounded_dictionary_forgets_its_oldest() -> None:
    kept: Bounded[int, int] = Bounded(2)
    for n in range(4):
        kept[n] = n

    assert list(kept) == [2, 3]
