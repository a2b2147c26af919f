"""The month's card calls, counted in the record for all processes."""

from app.quota import MonthlyCalls
from app.redis import Store

NOVEMBER, DECEMBER = 1_795_000_000.0, 1_796_500_000.0


def test_when_the_month_is_used_up_no_card_is_left(store: Store) -> None:
    """All processes share one count."""
    ours, theirs = (MonthlyCalls(store, 3, wall=lambda: NOVEMBER) for _ in range(2))

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
