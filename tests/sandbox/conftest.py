"""One sandbox for each test module; each test gets it as if new."""

import time
from collections.abc import Iterator

import pytest

from sandbox.client import SandboxClient
from sandbox.probe import Probe
from sandbox.process import Sandbox, running_sandbox
from sandbox.rules import Rules


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with running_sandbox() as running:
        yield running


@pytest.fixture
def sandbox(box: Sandbox) -> Iterator[SandboxClient]:
    with SandboxClient(box.url) as client:
        usual = Rules()
        client.rules(
            **{name: getattr(usual, name) for name in Rules.__slots__ if name != "templates"},
            templates={box.template_id: ["content"]},
        )
        client.reset()
        yield client


@pytest.fixture
def app(box: Sandbox, sandbox: SandboxClient) -> Iterator[Probe]:
    before = len(sandbox.connections())
    with Probe(box) as probe:
        yield probe
    deadline = time.monotonic() + 10
    while len(sandbox.connections()) > before and time.monotonic() < deadline:
        time.sleep(0.01)  # the next test must not meet a socket of this one
