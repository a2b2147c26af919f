"""Which permissions the app has: calls that can show nobody anything, refused for their scope or for their emptiness.

Source: im-protocols, sections 4.3, 5.3 to 5.5. A card that does not exist is answered 400 to who may write cards, and
403 `AccessTokenPermissionDenied` to who may not.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from app.channels.dingtalk.exchange import BoundedClient, Unread
from app.finding import Finding

NO_CARD = "switchyard-doctor-no-such-card"
DENIED = "AccessTokenPermissionDenied"
UNAUTHENTICATED = "InvalidAuthentication"
PATIENCE_S = 10.0
MEND = "ask for it in the app's page 'Permissions' and publish a new version"


@dataclass(frozen=True)
class Probe:
    """A scope, and a call that needs it and changes nothing."""

    scope: str
    method: str
    path: str
    body: Mapping[str, Any]


def probes(robot: str) -> tuple[Probe, ...]:
    """One for each permission that the README asks for."""
    update = {"outTrackId": NO_CARD, "guid": NO_CARD, "key": "content", "content": "-", "isFull": True}
    card = {"outTrackId": NO_CARD, "cardData": {"cardParamMap": {}}, "cardUpdateOptions": {"updateCardDataByKey": True}}
    nobody = {"robotCode": robot, "userIds": [], "msgKey": "sampleText", "msgParam": '{"content":"-"}'}
    return (
        Probe("Card.Streaming.Write", "PUT", "/v1.0/card/streaming", update),
        Probe("Card.Instance.Write", "PUT", "/v1.0/card/instances", card),
        Probe("qyapi_robot_sendmsg", "POST", "/v1.0/robot/oToMessages/batchSend", nobody),
    )


def permissions(http: BoundedClient, api: str, token: str, robot: str) -> Iterator[Finding]:
    """One finding a permission."""
    for probe in probes(robot):
        try:
            answer = http.exchange(
                probe.method,
                api + probe.path,
                within_s=PATIENCE_S,
                json=probe.body,
                headers={"x-acs-dingtalk-access-token": token},
            )
        except (httpx.HTTPError, Unread) as exc:
            yield Finding(probe.scope, "warning", f"no answer ({type(exc).__name__})", "try again in a minute")
        else:
            yield _judged(probe.scope, answer)


def _judged(scope: str, answer: httpx.Response) -> Finding:
    try:
        body = answer.json()
    except (ValueError, RecursionError):
        body = None
    code = str(body.get("code", "")) if isinstance(body, dict) else ""
    if DENIED in code:
        return Finding(scope, "fault", "the app may not", MEND)
    if answer.status_code in (200, 400) and UNAUTHENTICATED not in code:  # there is no such card, and nobody to send to
        return Finding(scope, "ok", "granted")
    return Finding(
        scope, "warning", f"answered {answer.status_code} ({code or 'no code'})", "see the app's permissions"
    )
