"""The access token: one fetch for all, early refresh, and what a failure means."""

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from app.channels.dingtalk.token import AccessToken
from app.errors import OutcomeUnknown, PlatformBusy


class Issuer:
    """Gives out tokens t1, t2, …; waits for `gate` first, fails while `error` is set."""

    def __init__(self, life_s: Any = 7200) -> None:
        self.life_s = life_s
        self.fetches = 0
        self.now = 1000.0
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None

    def fetch(self) -> Mapping[str, Any]:
        self.fetches += 1
        assert self.gate.wait(5)
        if self.error:
            raise self.error
        return {"accessToken": f"t{self.fetches}", "expireIn": self.life_s}

    def clock(self) -> float:
        return self.now


def test_many_threads_share_one_fetch() -> None:
    issuer = Issuer()
    issuer.gate.clear()
    token = AccessToken(issuer.fetch, issuer.clock)

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(token.get) for _ in range(8)]
        issuer.gate.set()
        got = {one.result(5) for one in asked}

    assert (got, issuer.fetches) == ({"t1"}, 1)


def test_a_token_is_replaced_five_minutes_before_it_ends() -> None:
    issuer = Issuer()
    token = AccessToken(issuer.fetch, issuer.clock)
    token.get()

    issuer.now += 6899
    before = token.get()
    issuer.now += 2

    assert (before, token.get()) == ("t1", "t2")


def test_a_token_of_a_short_life_is_used_for_half_of_it() -> None:
    issuer = Issuer(life_s=10)
    token = AccessToken(issuer.fetch, issuer.clock)

    first, again = token.get(), token.get()
    issuer.now += 6

    assert (first, again, token.get()) == ("t1", "t1", "t2")


def test_only_the_token_that_failed_is_dropped() -> None:
    issuer = Issuer()
    token = AccessToken(issuer.fetch, issuer.clock)
    token.get()

    token.drop("another")
    kept = token.get()
    token.drop("t1")

    assert (kept, token.get()) == ("t1", "t2")


def test_a_fetch_of_unknown_outcome_means_that_the_call_was_not_made() -> None:
    issuer = Issuer()
    token = AccessToken(issuer.fetch, issuer.clock)
    issuer.error = OutcomeUnknown("ReadTimeout")

    with pytest.raises(PlatformBusy, match="token: ReadTimeout"):
        token.get()
    issuer.error, issuer.now = None, issuer.now + 1

    assert token.get() == "t2"


def test_an_answer_without_a_token_is_for_later() -> None:
    issuer = Issuer(life_s="long")

    with pytest.raises(PlatformBusy):
        AccessToken(issuer.fetch, issuer.clock).get()
