"""A whole installation for the tests of a module: real servers, real workers, a sandbox."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from prove.installation import Installation, installation
from prove.plan import Plan
from sandbox.client import SandboxClient
from sandbox.process import Sandbox, running_sandbox

SKILLS = Path(__file__).parent / "skills"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with running_sandbox() as sandbox:
        yield sandbox


def pytest_addoption(parser: pytest.Parser) -> None:
    """`pytest tests/failure -m failure --broker rabbitmq` runs all of these on RabbitMQ."""
    parser.addoption("--broker", choices=("embedded", "rabbitmq"), default="embedded")


@pytest.fixture(scope="module")
def broker(request: pytest.FixtureRequest) -> dict[str, str]:
    """The settings that name the broker; none for the embedded one."""
    if request.config.getoption("--broker", default="embedded") == "embedded":
        return {}
    return {"SWITCHYARD_BROKER_URL": request.getfixturevalue("rabbit").url}


@pytest.fixture(scope="module")
def house(sandbox: Sandbox, broker: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Echo, a lease of 2 s, and a skill that dies when told to."""
    settings = {**Plan().environment(), "SWITCHYARD_SKILLS_DIR": str(SKILLS), "SWITCHYARD_LOCALE": "en"}
    settings |= {"SWITCHYARD_POOLS": "text=1,image=1,default=1,sender=1", "SWITCHYARD_ECHO_TOKENS_PER_S": "20"} | broker
    with installation(tmp_path_factory.mktemp("house"), sandbox, settings) as house:
        yield house


@pytest.fixture
def people(house: Installation, sandbox: Sandbox) -> Iterator[SandboxClient]:
    """What people do and see; the log begins anew with each test."""
    with SandboxClient(sandbox.url) as client:
        client.clear_faults()
        client.reset()
        yield client
