"""A call ends in time and takes no more than it should, whatever the peer does."""

import gzip
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from app import doctor
from app.channels.dingtalk.api import DingTalkApi
from app.channels.dingtalk.connection import SystemClock, Timing
from app.channels.dingtalk.exchange import ANSWER_LIMIT_BYTES, BoundedClient, TooLarge, TooSlow
from app.channels.dingtalk.opening import Credentials, open_connection
from app.errors import OutcomeUnknown, PlatformBusy
from app.settings import Settings
from tests.app.channels.dingtalk.rawpeer import HEAD, sending

TRICKLES = [
    pytest.param(b"", b"H", id="status line"),
    pytest.param(b"HTTP/1.1 200 OK\r\n", b"X-Y: z\r\n", id="headers"),
    pytest.param(HEAD % 1_000, b" ", id="body"),
    pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n", id="chunks"),
]
PACKED = gzip.compress(b" " * 10 * ANSWER_LIMIT_BYTES)
FLOODS = [
    pytest.param(HEAD % (ANSWER_LIMIT_BYTES + 1), b"", id="announced"),
    pytest.param(b"HTTP/1.1 200 OK\r\n\r\n" + b" " * (ANSWER_LIMIT_BYTES + 1), b" ", id="not announced"),
    pytest.param(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + PACKED, b" ", id="packed"),
]


@contextmanager
def at_once() -> Iterator[None]:
    """What stands in it does not wait for the trickle to end, which takes 20 s."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < 10


def test_an_answer_in_time_is_whole_and_so_is_the_next() -> None:
    with sending(HEAD % 4 + b"null") as url, BoundedClient(timeout=2) as client:
        answers = [client.exchange("POST", url, within_s=5, json={}) for _ in range(2)]

    assert [(answer.status_code, answer.json()) for answer in answers] == [(200, None)] * 2


@pytest.mark.parametrize(("first", "slowly"), TRICKLES)
def test_a_trickle_ends_when_the_time_is_over(first: bytes, slowly: bytes) -> None:
    """Each byte comes in time for itself: only the whole shows that there will be no answer."""
    with sending(first, slowly) as url, BoundedClient(timeout=2) as client, at_once(), pytest.raises(TooSlow):
        client.exchange("GET", url, within_s=0.3)


@pytest.mark.parametrize(("first", "slowly"), FLOODS)
def test_a_flood_is_not_read_to_its_end(first: bytes, slowly: bytes) -> None:
    with sending(first, slowly) as url, BoundedClient(timeout=2) as client, pytest.raises(TooLarge):
        client.exchange("GET", url, within_s=10)


def test_a_time_that_is_over_does_not_end_the_next_call() -> None:
    with sending(b"", b"H") as slow, sending(HEAD % 4 + b"null") as quick, BoundedClient(timeout=2) as client:
        with pytest.raises(TooSlow):
            client.exchange("GET", slow, within_s=0.1)

        assert client.exchange("GET", quick, within_s=10).json() is None


@pytest.mark.parametrize(("first", "slowly"), [*TRICKLES, *FLOODS])
def test_a_call_whose_answer_cannot_be_read_may_have_been_done(first: bytes, slowly: bytes) -> None:
    with sending(first, slowly) as url:
        api = DingTalkApi(openapi=url, oapi=url, client_id="id", client_secret="x", read_s=0.2)
        with at_once(), pytest.raises(OutcomeUnknown):
            api.post_webhook(f"{url}/robot/sendBySession", {})
        api.close()


@pytest.mark.parametrize(("first", "slowly"), [*TRICKLES, *FLOODS])
async def test_a_gateway_whose_answer_cannot_be_read_is_asked_again(first: bytes, slowly: bytes) -> None:
    with sending(first, slowly) as url, at_once():
        async with httpx.AsyncClient(trust_env=False) as client:
            known = Credentials(openapi=url, client_id="id", client_secret="x")
            with pytest.raises(PlatformBusy):
                await open_connection(client, known, lambda _: None, Timing(open_s=0.3), SystemClock())


@pytest.mark.parametrize(("first", "slowly"), FLOODS)
def test_the_doctor_survives_a_flood(first: bytes, slowly: bytes) -> None:
    with sending(first, slowly) as url:
        settings = Settings(
            DINGTALK_CLIENT_ID="id",
            DINGTALK_CLIENT_SECRET="x",
            DINGTALK_OPENAPI_ENDPOINT=url,
        )
        (finding,) = doctor._platform(settings)

    assert (finding.check, finding.verdict) == ("platform", "fault")
