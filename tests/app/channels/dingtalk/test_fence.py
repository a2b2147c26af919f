"""Each call passes its fence right before it is made, and is over when the fence says so, however slow the platform."""

import math
import time
from collections.abc import Callable

import pytest

from app.channels.dingtalk.api import STREAMING, TOKEN, DingTalkApi
from app.channels.dingtalk.outlet import DingTalkOutlet
from app.errors import LeaseLost, OutcomeUnknown, PlatformBusy
from app.message import Address
from sandbox.client import SandboxClient
from sandbox.process import Sandbox
from tests.app.channels.dingtalk.peer import one_callback

WEBHOOK = "/robot/sendBySession"
SHOWN = ("created", "updated", "finished", "webhook", "proactive", "repeated", "refused")

Call = Callable[[DingTalkOutlet, Address], None]
CALLS: dict[str, Call] = {
    "open": lambda outlet, address: outlet.open_card("m1", address, "…"),
    "update": lambda outlet, address: outlet.update_card("m1", "half", key="m1:1:1"),
    "finish": lambda outlet, address: outlet.finish_card("m1", "whole", key="m1:final"),
    "fail": lambda outlet, address: outlet.fail_card("m1", "sorry", key="m1:failed"),
    "webhook": lambda outlet, address: outlet.by_webhook(address, "whole"),
    "to a person": lambda outlet, address: outlet.proactively(address, "whole"),
}


class Watch:
    """A fence that counts its checks; `within_s` of the last one a call must be over."""

    def __init__(self, within_s: float = math.inf, *, lost: bool = False, moves: bool = False) -> None:
        self.checks = 0
        self._within_s, self._lost, self._moves = within_s, lost, moves
        self._from = -math.inf

    def check(self) -> None:
        self.checks += 1
        self._from = time.monotonic()
        if self._lost:
            raise LeaseLost("lost")

    def ends_at(self) -> float:
        return (time.monotonic() if self._moves else self._from) + self._within_s


@pytest.fixture
def address(sandbox: Sandbox, platform: SandboxClient) -> Address:
    """With a living webhook."""
    url = one_callback(sandbox, lambda: platform.send_text("hi"))["sessionWebhook"]
    return Address(channel="dingtalk", robot=sandbox.client_id, chat="cid1=", group=False, person="p", webhook=url)


@pytest.mark.parametrize("name", CALLS)
def test_a_call_under_a_lost_lease_does_not_reach_the_platform(
    outlet: DingTalkOutlet, platform: SandboxClient, address: Address, name: str
) -> None:
    outlet.open_card("m1", address, "…")  # so that there is something to update
    before = platform.last()

    with pytest.raises(LeaseLost):
        CALLS[name](outlet.under(Watch(lost=True)), address)

    assert platform.log(before, *SHOWN) == []


def test_a_call_passes_its_fence_once_and_so_does_its_repeat(
    outlet: DingTalkOutlet, platform: SandboxClient, address: Address
) -> None:
    """What the client repeats by itself is a call too; fetching a token is none."""
    fence = Watch()

    CALLS["open"](outlet.under(fence), address)
    first = fence.checks
    platform.answer(STREAMING, "token")
    CALLS["finish"](outlet.under(fence), address)

    assert (first, fence.checks) == (1, 3)


def test_the_fence_is_asked_after_the_token_was_fetched(
    outlet: DingTalkOutlet, platform: SandboxClient, address: Address
) -> None:
    """A token may take longer than what is left of a lease."""
    platform.answer(TOKEN, "slow", delay_ms=3000)

    CALLS["open"](outlet.under(Watch(within_s=2.9)), address)

    assert len(platform.log(0, "created")) == 1


@pytest.mark.parametrize("warm", [False, True], ids=["new connection", "kept connection"])
def test_a_call_whose_time_is_over_is_not_made_and_that_is_proved(
    outlet: DingTalkOutlet, platform: SandboxClient, address: Address, warm: bool
) -> None:
    """So it may be made again, also where each call is seen."""
    if warm:
        CALLS["webhook"](outlet, address)
    before = platform.last()

    with pytest.raises(PlatformBusy):
        CALLS["webhook"](outlet.under(Watch(within_s=-1.0)), address)

    assert platform.log(before, *SHOWN) == []


@pytest.mark.parametrize("answer", ["slow", "slow_after"])
def test_a_call_is_over_when_the_lease_is(
    make_api: Callable[..., DingTalkApi], platform: SandboxClient, sandbox: Sandbox, address: Address, answer: str
) -> None:
    """It may have been done: the same call is made again, by whoever has the lease then."""
    outlet = DingTalkOutlet(make_api(read_s=60.0), sandbox.client_id, sandbox.template_id, "content")
    CALLS["webhook"](outlet, address)  # the connection is there
    platform.answer(WEBHOOK, answer, delay_ms=30_000)
    began = time.monotonic()

    with pytest.raises(OutcomeUnknown):
        CALLS["webhook"](outlet.under(Watch(within_s=2.0)), address)

    assert time.monotonic() - began < 20


def test_a_slow_platform_is_waited_for_while_the_lease_is_renewed(
    outlet: DingTalkOutlet, platform: SandboxClient, address: Address
) -> None:
    """A short lease must not turn every slow answer into one that comes twice."""
    platform.answer(WEBHOOK, "slow_after", delay_ms=1500)

    CALLS["webhook"](outlet.under(Watch(within_s=0.5, moves=True)), address)

    assert len(platform.log(0, "webhook")) == 1


def test_a_lease_that_is_renewed_does_not_make_a_call_endless(
    make_api: Callable[..., DingTalkApi], platform: SandboxClient, sandbox: Sandbox, address: Address
) -> None:
    platform.answer(WEBHOOK, "slow", delay_ms=30_000)
    outlet = DingTalkOutlet(make_api(read_s=0.3), sandbox.client_id, sandbox.template_id, "content")

    with pytest.raises(OutcomeUnknown):
        CALLS["webhook"](outlet.under(Watch(within_s=0.1, moves=True)), address)
