"""A platform that answers later than a lease lasts: the lease is renewed under the call, and its answer is heard."""

from collections.abc import Iterator
from contextlib import closing

import msgspec
import pytest

from app.channels.dingtalk.api import CREATE, STREAMING, DingTalkApi
from app.channels.dingtalk.outlet import DingTalkOutlet
from app.message import Message
from app.redis import Store
from sandbox.client import SandboxClient
from sandbox.process import Sandbox, running_sandbox
from tests.app.channels.dingtalk.peer import one_callback
from tests.samples import a_message
from tests.workers.desk import House, a_house

LEASE_S, ANSWER_MS = 1.0, 2500
WEBHOOK = "/robot/sendBySession"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with running_sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def platform(sandbox: Sandbox) -> Iterator[SandboxClient]:
    with SandboxClient(sandbox.url) as client:
        client.clear_faults()
        client.reset()
        yield client


@pytest.fixture
def house(store: Store, sandbox: Sandbox) -> Iterator[House]:
    """A house on that platform."""
    api = DingTalkApi(
        openapi=sandbox.url,
        oapi=sandbox.url,
        client_id=sandbox.client_id,
        client_secret=sandbox.client_secret,
        read_s=30.0,
    )
    with a_house(store, lease_s=LEASE_S) as house, closing(api):
        house.sending.outlet = DingTalkOutlet(api, sandbox.client_id, sandbox.template_id, "content")
        yield house


def an_answer(house: House, sandbox: Sandbox, platform: SandboxClient) -> Message:
    """To somebody with a webhook."""
    url = one_callback(sandbox, lambda: platform.send_text("hi"))["sessionWebhook"]
    message = a_message()
    address = msgspec.structs.replace(message.address, robot=sandbox.client_id, webhook=url)
    return house.owes(msgspec.structs.replace(message, address=address), "the answer")


@pytest.mark.parametrize(
    ("route", "shown", "answer"),
    [
        (WEBHOOK, "webhook", "slow"),
        (WEBHOOK, "webhook", "slow_after"),
        (STREAMING, "finished", "slow_after"),
        (CREATE, "finished", "slow"),
    ],
)
def test_what_the_platform_takes_long_for_is_sent_once(
    house: House, sandbox: Sandbox, platform: SandboxClient, route: str, shown: str, answer: str
) -> None:
    """Cut off by the end of its lease it would be unsure, and a message would come again and again."""
    house.sending.cards = lambda: shown == "finished"
    message = an_answer(house, sandbox, platform)
    platform.answer(route, answer, delay_ms=ANSWER_MS)

    house.deliver(message)

    assert house.items("outbox", message) == []
    assert len(platform.log(0, shown)) == 1
    assert platform.log(0, "repeated") == []
