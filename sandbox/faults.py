"""What goes wrong on purpose. A route fault answers the next N calls of one route, or all until it is cleared."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sandbox.refusal import Refused, bad_param, bad_token, no_permission, no_session, old_error

Json = dict[str, Any]

OPEN = "/v1.0/gateway/connections/open"


@dataclass(slots=True)
class RouteFault:
    """One planned answer. `left` None means until cleared; times in milliseconds and seconds as named."""

    route: str
    answer: str
    left: int | None = None
    delay_ms: float = 0
    retry_after_s: float = 1

    @property
    def after(self) -> bool:
        """Whether the call is processed before it fails, so that the caller cannot know its outcome."""
        return self.answer in ("timeout_after", "slow_after")

    def refuse(self, body: Json) -> None:
        """Raise the planned Refused; nothing for a mere delay."""
        made = _ANSWERS[self.answer](self, body)
        if made is not None:
            raise made


def _undelivered(fault: RouteFault, body: Json) -> Refused:
    """HTTP 200, and yet nobody was shown anything."""
    if "userIds" in body:
        lists = {"invalidStaffIdList": [], "flowControlledStaffIdList": body["userIds"], "filteredStaffIdList": []}
        return Refused(200, "undelivered", body={"processQueryKey": "pqk-none", **lists})
    kind, _, space = str(body.get("openSpaceId", "")).removeprefix("dtv1.card//").partition(".")
    result = {"spaceType": kind, "spaceId": space, "success": False, "carrierId": "", "errorMsg": "robot not in group"}
    return Refused(
        200,
        "undelivered",
        body={"success": True, "result": {"outTrackId": body.get("outTrackId"), "deliverResults": [result]}},
    )


def _throttled(fault: RouteFault, body: Json) -> Refused:
    return Refused(429, "TooManyRequests", headers={"Retry-After": f"{fault.retry_after_s:g}"})


def _punished(fault: RouteFault, body: Json) -> Refused:
    return Refused(403, "punish", body={"punish": "deny", "status": 1111, "deny": True})


def _plain(make: Callable[[], Refused]) -> Callable[[RouteFault, Json], Refused]:
    return lambda fault, body: make()


_FORBIDDEN = "Forbidden.AccessDenied."
_ANSWERS: dict[str, Callable[[RouteFault, Json], Refused | None]] = {
    "qps": _plain(lambda: Refused(403, _FORBIDDEN + "QpsLimitForAppkeyAndApi", "应用调用该接口超过QPS限制")),
    "qps_api": _plain(lambda: Refused(403, _FORBIDDEN + "QpsLimitForApi", "接口被限流")),
    "month": _plain(lambda: Refused(403, _FORBIDDEN + "ApiCountLimitForOrg", "本月调用次数已用完")),
    "permission": _plain(lambda: no_permission("Card.Streaming.Write")),
    "throttled": _throttled,
    "punished": _punished,
    "timeout_before": _plain(lambda: Refused(504, "GatewayTimeout", "backend timeout")),
    "timeout_after": _plain(lambda: Refused(504, "GatewayTimeout", "backend timeout")),
    "busy": _plain(lambda: Refused(500, "system.busy", "系统繁忙")),
    "unknown": _plain(lambda: Refused(500, "unknownError", "未知错误")),
    "unavailable": _plain(lambda: Refused(503, "ServiceUnavailable", "服务不可用")),
    "rejected": _plain(lambda: bad_param("authFailed", "鉴权失败")),
    "unsafe": _plain(lambda: bad_param("param.contentUnsafe", "内容不合规")),
    "too_large": _plain(lambda: bad_param("param.stream.content", "内容过长")),
    "token": _plain(bad_token),
    "undelivered": _undelivered,
    "expired": _plain(no_session),
    "too_fast": _plain(lambda: old_error(130101, "send too fast")),
    "slow": lambda fault, body: None,
    "slow_after": lambda fault, body: None,
}


@dataclass(slots=True)
class Redelivery:
    """Push again: the same msgId under a new headers.messageId."""

    after_s: float
    times: int


@dataclass(frozen=True, slots=True, eq=False)
class Goodbyes:
    """Tell the connection that has been up longest to go, again and again. Seconds."""

    every_s: float
    close_after_s: float


@dataclass(slots=True)
class Faults:
    """Every fault that is set at present."""

    routes: list[RouteFault] = field(default_factory=list)
    unacked: Redelivery | None = None
    acked: Redelivery | None = None
    goodbyes: Goodbyes | None = None
    # How many of the next connections are dead from birth, and whether those still pong.
    stillborn: int = 0
    stillborn_pong: bool = False

    def take(self, route: str) -> RouteFault | None:
        """The fault for this call of a route, if one is set; counts it."""
        for fault in self.routes:
            if fault.route == route:
                if fault.left is not None:
                    fault.left -= 1
                    if fault.left <= 0:
                        self.routes.remove(fault)
                return fault
        return None

    def plan(self, request: Json) -> None:
        """Set a lasting fault by its name. Raises Refused if there is none of this name."""
        name = request.get("fault")
        if name == "redeliver_unacked":
            self.unacked = Redelivery(float(request.get("after_s", 60)), int(request.get("times", 1000)))
        elif name == "redeliver_acked":
            self.acked = Redelivery(float(request.get("after_s", 0)), int(request.get("times", 1)))
        elif name == "zombie":
            self.stillborn, self.stillborn_pong = int(request.get("times", 1)), bool(request.get("pong", False))
        elif name == "refuse_open":
            self._answer({"as": "unavailable", **request, "route": OPEN})
        elif name == "slow_open":
            self._answer({"as": "slow", "delay_ms": 1000, **request, "route": OPEN})
        elif name == "answer":
            self._answer(request)
        else:
            raise bad_param("sandbox.fault", f"{name!r} is no fault")

    def clear(self) -> None:
        """From now on all goes well."""
        self.routes.clear()
        self.unacked = self.acked = self.goodbyes = None
        self.stillborn = 0

    def _answer(self, request: Json) -> None:
        answer, route, times = request.get("as"), request.get("route"), request.get("times")
        if answer not in _ANSWERS:
            raise bad_param("sandbox.fault", f"as: one of {', '.join(_ANSWERS)}")
        if not isinstance(route, str) or not (times is None or (isinstance(times, int) and times > 0)):
            raise bad_param("sandbox.fault", "route: a path; times: a number from 1, or null until cleared")
        delay_ms, retry_after_s = float(request.get("delay_ms", 0)), float(request.get("retry_after_s", 1))
        self.routes.append(RouteFault(route, answer, times, delay_ms, retry_after_s))
