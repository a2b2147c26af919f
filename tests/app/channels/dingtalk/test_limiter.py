"""Our own limit on calls."""

from app.channels.dingtalk.limiter import DRAFT_SHARE, Limiter


class Watch:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_no_window_sees_more_calls_than_the_limit() -> None:
    watch = Watch()
    limiter = Limiter(10, watch)
    granted = []
    for _ in range(400):
        watch.now += 0.01
        if limiter.take()[0]:
            granted.append(watch.now)

    assert max(sum(start <= at < start + 1.05 for at in granted) for start in granted) == 10
    assert len(granted) >= 36


def test_drafts_leave_a_reserve_for_other_calls() -> None:
    limiter = Limiter(10, Watch())

    drafts = [limiter.take(share=DRAFT_SHARE)[0] for _ in range(20)]
    others = [limiter.take()[0] for _ in range(20)]

    assert (sum(drafts), sum(others)) == (7, 3)


def test_a_patient_caller_is_promised_a_place_and_others_are_told_when() -> None:
    watch = Watch()
    limiter = Limiter(2, watch)
    limiter.take()
    watch.now += 0.1
    limiter.take()
    watch.now += 0.9

    promised, refused = limiter.take(patience_s=0.2), limiter.take(patience_s=0.1)

    assert (promised[0], round(promised[1], 3)) == (True, 0.1)
    assert (refused[0], round(refused[1], 3)) == (False, 0.2)


def test_less_than_a_call_a_second_still_lets_drafts_through() -> None:
    watch = Watch()
    limiter = Limiter(0.5, watch)

    assert limiter.take(share=DRAFT_SHARE) == (True, 0.0)
    granted, wait_s = limiter.take()
    assert (granted, round(wait_s, 3)) == (False, 2.2)


def test_a_pause_is_kept() -> None:
    watch = Watch()
    limiter = Limiter(10, watch)
    limiter.pause(3)

    assert limiter.take() == (False, 3.0)
    watch.now += 3
    assert limiter.take() == (True, 0.0)
