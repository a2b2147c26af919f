"""A sandbox for the tests of this folder: a whole DingTalk in a process of its own."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app.channels.dingtalk.api import DingTalkApi
from app.channels.dingtalk.outlet import DingTalkOutlet
from sandbox.client import SandboxClient
from sandbox.process import Sandbox, running_sandbox
from sandbox.rules import Rules


@pytest.fixture(scope="package")
def sandbox() -> Iterator[Sandbox]:
    with running_sandbox() as running:
        yield running


@pytest.fixture
def platform(sandbox: Sandbox) -> Iterator[SandboxClient]:
    """The sandbox's controls; everything is forgotten before and after each test."""
    with SandboxClient(sandbox.url) as client:
        client.reset()
        yield client
        client.clear_faults()
        client.rules(qps=0, repeated_create=Rules().repeated_create, token_s=Rules().token_s)
        client.reset()


@pytest.fixture
def make_api(sandbox: Sandbox) -> Iterator[Callable[..., DingTalkApi]]:
    made = []

    def make(**changes: Any) -> DingTalkApi:
        known = {"client_id": sandbox.client_id, "client_secret": sandbox.client_secret, "calls_per_s": 10_000.0}
        made.append(DingTalkApi(**{"openapi": sandbox.url, "oapi": sandbox.url, **known, **changes}))
        return made[-1]

    yield make
    for api in made:
        api.close()


@pytest.fixture
def outlet(make_api: Callable[..., DingTalkApi], sandbox: Sandbox) -> DingTalkOutlet:
    return DingTalkOutlet(make_api(), sandbox.client_id, sandbox.template_id, "content")
