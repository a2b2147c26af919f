"""The doctor's questions about permissions, asked of a sandbox."""

from collections.abc import Iterator

import pytest

from app.channels.dingtalk.exchange import BoundedClient
from app.channels.dingtalk.permissions import permissions, probes
from app.finding import Finding
from sandbox.client import SandboxClient
from sandbox.process import Sandbox


@pytest.fixture
def http() -> Iterator[BoundedClient]:
    with BoundedClient(timeout=5, headers={"Accept": "application/json"}) as http:
        yield http


def found(http: BoundedClient, sandbox: Sandbox) -> list[Finding]:
    credentials = {"appKey": sandbox.client_id, "appSecret": sandbox.client_secret}
    token = http.post(f"{sandbox.url}/v1.0/oauth2/accessToken", json=credentials).json()["accessToken"]
    return list(permissions(http, sandbox.url, token, sandbox.client_id))


def test_an_app_with_all_permissions_is_told_so_and_shows_nothing(
    http: BoundedClient, sandbox: Sandbox, platform: SandboxClient
) -> None:
    before = platform.last()

    findings = found(http, sandbox)

    assert [(one.check, one.verdict) for one in findings] == [
        ("Card.Streaming.Write", "ok"),
        ("Card.Instance.Write", "ok"),
        ("qyapi_robot_sendmsg", "ok"),
    ]
    assert platform.log(before, "created", "updated", "finished", "proactive", "webhook") == []


@pytest.mark.parametrize("place", range(3))
def test_a_missing_permission_is_named_with_its_mend(
    http: BoundedClient, sandbox: Sandbox, platform: SandboxClient, place: int
) -> None:
    platform.answer(probes(sandbox.client_id)[place].path, "permission")

    findings = found(http, sandbox)

    assert [one.verdict for one in findings] == ["fault" if number == place else "ok" for number in range(3)]
    assert "Permissions" in findings[place].line()


def test_a_platform_in_trouble_is_no_missing_permission(
    http: BoundedClient, sandbox: Sandbox, platform: SandboxClient
) -> None:
    platform.answer("/v1.0/card/streaming", "unavailable")

    assert found(http, sandbox)[0].verdict == "warning"


def test_a_refused_token_is_no_permission(http: BoundedClient, sandbox: Sandbox, platform: SandboxClient) -> None:
    """It is answered with 400, as a card that does not exist is."""
    platform.answer("/v1.0/card/streaming", "token")

    finding = found(http, sandbox)[0]

    assert finding.verdict == "warning"
    assert "InvalidAuthentication" in finding.line()
