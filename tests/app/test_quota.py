"""The month's card calls, counted in the record for all processes."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.quota import MonthlyCalls
from app.redis import Store

NOVEMBER, DECEMBER = 1_795_000_000.0, 1_796_500_000.0


def test_when_too_few_calls_for_a_card_are_left_none_is_opened(store: Store) -> None:
    """A card that is created with the last call could never be finished. All processes share one count."""
    ours, theirs = (MonthlyCalls(store, 4, wall=lambda: NOVEMBER) for _ in range(2))

    for _ in range(2):
        ours.count()
        assert ours.left()
    theirs.count()

    assert theirs.used() == 3
    assert not theirs.left()


def test_the_next_month_begins_anew(store: Store) -> None:
    now = [NOVEMBER]
    month = MonthlyCalls(store, 1, wall=lambda: now[0])
    month.count()

    now[0] = DECEMBER

    assert month.used() == 0


def test_without_a_limit_nothing_is_counted(store: Store) -> None:
    month = MonthlyCalls(store, 0)

    month.count()

    assert month.left()
    assert store.client.dbsize() == 0


@pytest.mark.parametrize("limit", [0, 1000])
def test_what_the_platform_says_itself_counts_until_the_month_is_over_and_is_said_once(
    store: Store, limit: int
) -> None:
    """Its month may hold fewer calls than we were told, or other apps may have used them."""
    now = [NOVEMBER]
    month = MonthlyCalls(store, limit, wall=lambda: now[0])
    assert month.left()

    with capture_logs() as logs:
        month.used_up()
        month.used_up()

    assert not month.left()
    assert [entry["log_level"] for entry in logs] == ["error"]
    now[0] = DECEMBER
    assert month.left()


def test_calls_of_many_threads_at_once_are_all_counted(store: Store) -> None:
    month = MonthlyCalls(store, 10_000)

    with ThreadPoolExecutor(16) as senders:
        for _ in range(320):
            senders.submit(month.count)

    assert month.used() == 320


class SlowToRead(Store):
    """A record that answers a read when the test says so."""

    def __init__(self, url: str) -> None:
        super().__init__(url, deadline_s=5.0)
        self.asked, self.go = threading.Event(), threading.Event()

    def at_once(self, key: str, call: Any) -> Any:
        self.asked.set()
        assert self.go.wait(10)
        return super().at_once(key, call)


def test_who_counts_does_not_wait_for_who_reads(valkey_url: str, store: Store) -> None:
    """The count is kept on the way of each card call; a slow read must not hold them all up."""
    slow = SlowToRead(valkey_url)
    month = MonthlyCalls(slow, 10)
    reader = threading.Thread(target=month.left)
    reader.start()
    assert slow.asked.wait(10)

    counter = threading.Thread(target=month.count)
    counter.start()
    counter.join(10)
    counted = not counter.is_alive()
    slow.go.set()
    reader.join(10)
    slow.close()

    assert counted
