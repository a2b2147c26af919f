"""The API against a whole platform: every row of the error table, tokens, limits, downloads, and what is trusted."""

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from structlog.testing import capture_logs

from app.channels.dingtalk.api import CREATE, STREAMING, TO_PERSON, TOKEN, DingTalkApi
from app.channels.dingtalk.outlet import DingTalkOutlet
from app.errors import OutcomeUnknown, PlatformBusy, PlatformRefused
from app.message import Address
from sandbox.client import SandboxClient
from sandbox.process import Sandbox
from tests.app.channels.dingtalk.peer import one_callback

WEBHOOK = "/robot/sendBySession"


def outlet_of(api: DingTalkApi, sandbox: Sandbox) -> DingTalkOutlet:
    return DingTalkOutlet(api, sandbox.client_id, sandbox.template_id, "content")


@pytest.fixture
def alone(sandbox: Sandbox) -> Address:
    return Address(channel="dingtalk", robot=sandbox.client_id, chat="cid1=", group=False, person="staff042")


@pytest.fixture
def group(sandbox: Sandbox) -> Address:
    return Address(channel="dingtalk", robot=sandbox.client_id, chat="cidG=", group=True, person="staff042", nick="Ann")


@pytest.fixture
def session(sandbox: Sandbox, platform: SandboxClient) -> Address:
    """An address with a living webhook of the sandbox, which tells it to connected clients only."""
    url = one_callback(sandbox, lambda: platform.send_text("hi"))["sessionWebhook"]
    return Address(channel="dingtalk", robot=sandbox.client_id, chat="cid1=", group=False, person="p", webhook=url)


def test_a_card_is_created_updated_and_finished(
    outlet: DingTalkOutlet, platform: SandboxClient, alone: Address
) -> None:
    outlet.open_card("m1", alone, "…")
    outlet.update_card("m1", "half", key="m1:1:1")
    outlet.finish_card("m1", "whole", key="m1:final")

    (card,) = platform.cards()
    assert (card["state"], card["text"]) == ("finished", "whole")


@pytest.mark.parametrize("habit", ["success", "exists"])
def test_every_card_call_repeated_changes_nothing(
    outlet: DingTalkOutlet, platform: SandboxClient, group: Address, habit: str
) -> None:
    """A call whose outcome is unknown is repeated with the same key."""
    platform.rules(repeated_create=habit)

    for _ in range(2):
        outlet.open_card("m1", group, "…")
    for _ in range(2):
        outlet.update_card("m1", "half", key="m1:1:1")
    for _ in range(2):
        outlet.finish_card("m1", "whole", key="m1:final")

    seen = [event["kind"] for event in platform.log(0, "created", "updated", "finished")]
    assert seen == ["created", "updated", "finished"]


def test_a_card_that_will_get_no_answer_is_failed_once(
    outlet: DingTalkOutlet, platform: SandboxClient, alone: Address
) -> None:
    outlet.open_card("m1", alone, "…")

    for _ in range(2):
        outlet.fail_card("m1", "sorry", key="m1:failed")

    (card,) = platform.cards()
    assert (card["state"], card["text"]) == ("failed", "sorry")
    assert len(platform.log(0, "finished")) == 1


def test_a_card_that_takes_no_streaming_is_failed_by_its_variables(
    outlet: DingTalkOutlet, platform: SandboxClient, alone: Address
) -> None:
    """Otherwise it would show for ever that an answer is being written."""
    outlet.open_card("m1", alone, "…")
    outlet.update_card("m1", "half", key="m1:1:1")

    platform.answer(STREAMING, "permission")
    outlet.fail_card("m1", "sorry", key="m1:failed")
    outlet.fail_card("m1", "sorry", key="m1:failed")

    (card,) = platform.cards()
    assert (card["state"], card["text"]) == ("failed", "sorry")
    assert len(platform.log(0, "finished")) == 1


@pytest.mark.parametrize(("fault", "error"), [("qps", PlatformBusy), ("timeout_after", OutcomeUnknown)])
def test_only_a_proved_refusal_leads_to_the_other_way_of_failing_a_card(
    outlet: DingTalkOutlet, platform: SandboxClient, alone: Address, fault: str, error: type[Exception]
) -> None:
    outlet.open_card("m1", alone, "…")
    platform.answer(STREAMING, fault)

    with pytest.raises(error):
        outlet.fail_card("m1", "sorry", key="m1:failed")


REFUSALS = [
    ("qps", PlatformBusy),
    ("qps_api", PlatformBusy),
    ("month", PlatformRefused),
    ("permission", PlatformRefused),
    ("throttled", PlatformBusy),
    ("punished", PlatformBusy),
    ("timeout_before", OutcomeUnknown),
    ("timeout_after", OutcomeUnknown),
    ("busy", OutcomeUnknown),
    ("unavailable", OutcomeUnknown),
    ("unsafe", PlatformRefused),
    ("undelivered", PlatformRefused),
]


@pytest.mark.parametrize(("fault", "error"), REFUSALS)
def test_each_failure_of_a_create_is_told_apart(
    outlet: DingTalkOutlet, platform: SandboxClient, alone: Address, fault: str, error: type[Exception]
) -> None:
    platform.answer(CREATE, fault)

    with pytest.raises(error):
        outlet.open_card("m1", alone, "…")


@pytest.mark.parametrize(("fault", "error"), [*REFUSALS[:10], ("too_large", PlatformRefused)])
def test_each_failure_of_an_update_is_told_apart(
    outlet: DingTalkOutlet, platform: SandboxClient, alone: Address, fault: str, error: type[Exception]
) -> None:
    outlet.open_card("m1", alone, "…")
    platform.answer(STREAMING, fault)

    with pytest.raises(error):
        outlet.finish_card("m1", "x", key="k")


def test_an_unknown_error_is_tried_once_more_and_then_a_refusal(
    outlet: DingTalkOutlet, platform: SandboxClient, alone: Address
) -> None:
    outlet.open_card("m1", alone, "…")

    platform.answer(STREAMING, "unknown")
    outlet.update_card("m1", "x", key="k1")
    platform.answer(STREAMING, "unknown", times=2)
    with pytest.raises(PlatformRefused, match="unknownError"):
        outlet.update_card("m1", "y", key="k2")


def test_a_wrong_variable_name_is_a_refusal(
    make_api: Callable[..., DingTalkApi], platform: SandboxClient, sandbox: Sandbox, alone: Address
) -> None:
    wrong = DingTalkOutlet(make_api(), sandbox.client_id, sandbox.template_id, "wrong")
    wrong.open_card("m1", alone, "…")

    with pytest.raises(PlatformRefused):
        wrong.finish_card("m1", "x", key="k")


def test_retry_after_is_handed_on_and_the_next_caller_does_not_ask_before(
    outlet: DingTalkOutlet, platform: SandboxClient, alone: Address
) -> None:
    platform.answer(CREATE, "throttled", retry_after_s=30)

    with pytest.raises(PlatformBusy) as first:
        outlet.open_card("m1", alone, "…")
    with pytest.raises(PlatformBusy) as second:
        outlet.open_card("m2", alone, "…")

    assert first.value.retry_after_s == 30
    assert 20 < second.value.retry_after_s <= 30
    assert len(platform.log(0, "refused")) == 1


def test_a_block_stops_every_call_for_five_minutes(
    outlet: DingTalkOutlet, platform: SandboxClient, alone: Address
) -> None:
    platform.answer(CREATE, "punished")

    for _ in range(2):
        with pytest.raises(PlatformBusy) as busy:
            outlet.open_card("m1", alone, "…")
        assert busy.value.retry_after_s == pytest.approx(300, abs=20)
    with pytest.raises(PlatformBusy):
        outlet.proactively(alone, "x")

    assert len(platform.log(0, "refused")) == 1


def test_a_refused_token_is_replaced_once_and_the_call_repeated(
    outlet: DingTalkOutlet, platform: SandboxClient, alone: Address
) -> None:
    outlet.open_card("m1", alone, "…")

    platform.fault("expire_tokens")
    outlet.update_card("m1", "x", key="k")
    platform.answer(STREAMING, "token", times=2)
    with pytest.raises(PlatformRefused, match="InvalidAuthentication"):
        outlet.update_card("m1", "y", key="k2")


def test_many_threads_open_cards_while_the_token_is_slow(
    outlet: DingTalkOutlet, platform: SandboxClient, alone: Address
) -> None:
    platform.answer(TOKEN, "slow", delay_ms=200)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: outlet.open_card(f"m{n}", alone, "…"), range(16)))

    assert len(platform.log(0, "created")) == 16


def test_without_a_token_nothing_was_done(outlet: DingTalkOutlet, platform: SandboxClient, alone: Address) -> None:
    platform.answer(TOKEN, "timeout_before")

    with pytest.raises(PlatformBusy, match="token"):
        outlet.open_card("m1", alone, "…")


def test_wrong_credentials_are_a_refusal(
    make_api: Callable[..., DingTalkApi], platform: SandboxClient, sandbox: Sandbox, alone: Address
) -> None:
    with pytest.raises(PlatformRefused):
        outlet_of(make_api(client_secret="wrong"), sandbox).open_card("m1", alone, "…")


def test_drafts_give_way_to_finishing_cards(
    make_api: Callable[..., DingTalkApi], platform: SandboxClient, sandbox: Sandbox, alone: Address
) -> None:
    outlet = outlet_of(make_api(calls_per_s=10.0), sandbox)
    outlet.open_card("m1", alone, "…")

    for n in range(7):
        outlet.update_card("m1", f"text {n}", key=f"k{n}")
    with pytest.raises(PlatformBusy):
        outlet.update_card("m1", "text 8", key="k8")
    outlet.finish_card("m1", "whole", key="final")

    assert platform.cards()[0]["state"] == "finished"


def test_proactive_messages_reach_a_person_and_a_group(
    outlet: DingTalkOutlet, platform: SandboxClient, alone: Address, group: Address
) -> None:
    outlet.proactively(alone, "one")
    outlet.proactively(group, "two")

    assert [event["text"] for event in platform.log(0, "proactive")] == ["one", "two"]
    with pytest.raises(PlatformRefused):
        outlet.proactively(Address(channel="dingtalk", robot="r", chat="c", group=False), "three")


def test_a_person_under_flow_control_is_for_later(
    outlet: DingTalkOutlet, platform: SandboxClient, alone: Address
) -> None:
    platform.answer(TO_PERSON, "undelivered")

    with pytest.raises(PlatformBusy):
        outlet.proactively(alone, "one")


def test_a_webhook_shows_a_message(outlet: DingTalkOutlet, platform: SandboxClient, session: Address) -> None:
    outlet.by_webhook(session, "# Title\nbody")

    (shown,) = platform.log(0, "webhook")
    assert (shown["text"], shown["msgtype"]) == ("# Title\nbody", "markdown")


@pytest.mark.parametrize(
    ("fault", "error"),
    [("expired", PlatformRefused), ("too_fast", PlatformBusy), ("timeout_after", OutcomeUnknown)],
)
def test_each_failure_of_a_webhook_is_told_apart(
    outlet: DingTalkOutlet, platform: SandboxClient, session: Address, fault: str, error: type[Exception]
) -> None:
    platform.answer(WEBHOOK, fault)

    with pytest.raises(error):
        outlet.by_webhook(session, "x")


def test_an_expired_webhook_is_not_even_tried(
    make_api: Callable[..., DingTalkApi], platform: SandboxClient, sandbox: Sandbox
) -> None:
    late = DingTalkOutlet(make_api(), "r", "t", "content", wall=lambda: 1000.0)
    url = f"{sandbox.url}/robot/sendBySession?session=x"
    address = Address(channel="dingtalk", robot="r", chat="c", group=False, webhook=url, webhook_expires_at=999.0)

    with pytest.raises(PlatformRefused, match=r"webhook\.expired"):
        late.by_webhook(address, "x")
    with pytest.raises(PlatformRefused, match=r"webhook\.missing"):
        late.by_webhook(Address(channel="dingtalk", robot="r", chat="c", group=False), "x")
    assert platform.log(0, "refused") == []


@pytest.mark.parametrize(
    ("url", "trusted"),
    [
        ("https://oapi.dingtalk.com/robot/sendBySession?session=s", True),
        ("https://OAPI.dingtalk.io/robot/sendBySession", True),
        ("https://dingtalk.com/", True),
        ("{own}/robot/sendBySession", True),
        ("http://oapi.dingtalk.com/robot", False),
        ("https://oapi.dingtalk.com:8443/robot", False),
        ("https://oapi.dingtalk.com@evil.example/", False),
        ("https://evil.example/?oapi.dingtalk.com", False),
        ("https://evildingtalk.com/", False),
        ("https://dingtalk.com.evil.example/", False),
        ("https://user:pw@oapi.dingtalk.com/", False),
        ("http://localhost:1/", True),  # the platform itself is on this machine: a sandbox
        ("http://169.254.169.254/latest", False),
        ("file:///etc/passwd", False),
        ("https://oapi.dingtalk.com\\@evil.example/", False),
        ("//oapi.dingtalk.com/x", False),
        ("nonsense", False),
        ("https://[::1", False),
    ],
)
def test_only_the_platforms_own_webhooks_are_used(
    make_api: Callable[..., DingTalkApi], sandbox: Sandbox, url: str, trusted: bool
) -> None:
    """A webhook comes with a message; whoever forges one must not make us call servers of his choice."""
    assert make_api().trusts(url.replace("{own}", sandbox.url)) is trusted


def test_the_real_platform_cannot_make_us_call_this_machine(make_api: Callable[..., DingTalkApi]) -> None:
    assert not make_api(openapi="https://api.dingtalk.com").trusts("http://127.0.0.1:1/")


def test_an_untrusted_webhook_is_refused(outlet: DingTalkOutlet) -> None:
    address = Address(channel="dingtalk", robot="r", chat="c", group=False, webhook="http://169.254.169.254/x")

    with pytest.raises(PlatformRefused, match=r"webhook\.host"):
        outlet.by_webhook(address, "x")


def test_a_closed_port_proves_that_nothing_was_sent(
    make_api: Callable[..., DingTalkApi], sandbox: Sandbox, alone: Address
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        api = make_api(openapi=f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(PlatformBusy):
            outlet_of(api, sandbox).open_card("m1", alone, "…")


def test_no_answer_in_time_leaves_the_outcome_unknown(
    make_api: Callable[..., DingTalkApi], platform: SandboxClient, sandbox: Sandbox, alone: Address
) -> None:
    outlet = outlet_of(make_api(read_s=0.2), sandbox)
    platform.answer(CREATE, "slow_after", delay_ms=600)

    with pytest.raises(OutcomeUnknown):
        outlet.open_card("m1", alone, "…")

    assert len(platform.log(0, "created")) == 1


def test_can_card_says_whom_a_card_can_reach(
    make_api: Callable[..., DingTalkApi], sandbox: Sandbox, outlet: DingTalkOutlet, alone: Address, group: Address
) -> None:
    stranger = Address(channel="dingtalk", robot="r", chat="c", group=False)

    assert [outlet.can_card(one) for one in (alone, group, stranger)] == [True, True, False]
    assert DingTalkOutlet(make_api(), "r", "", "content").can_card(alone) is False
    with pytest.raises(PlatformRefused):
        outlet.open_card("m1", stranger, "…")


def test_errors_are_logged_with_the_request_id_and_nothing_else_of_the_call(
    outlet: DingTalkOutlet, platform: SandboxClient, session: Address, sandbox: Sandbox
) -> None:
    platform.answer(CREATE, "qps")
    platform.answer(WEBHOOK, "too_fast")

    with capture_logs() as logs:
        with pytest.raises(PlatformBusy):
            outlet.open_card(
                "m1", Address(channel="d", robot="r", chat="c", group=False, person="zoe"), "private words"
            )
        with pytest.raises(PlatformBusy):
            outlet.by_webhook(session, "private words")

    assert logs[0]["requestid"].startswith("REQ-")
    assert not any(secret in str(logs) for secret in ("private words", session.webhook, sandbox.client_secret, "zoe"))
