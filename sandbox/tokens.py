"""Who may call, and how often: credentials, access tokens, calls a second and calls a month."""

import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from hmac import compare_digest
from typing import Any

from sandbox.bounded import Bounded
from sandbox.refusal import Refused, bad_param, bad_token, old_error
from sandbox.rules import Rules

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Credentials:
    """The app's id and secret."""

    client_id: str
    client_secret: str

    def match(self, client_id: object, secret: object) -> bool:
        """Whether these are they."""
        wanted = f"{self.client_id}\n{self.client_secret}".encode()
        return compare_digest(f"{client_id}\n{secret}".encode(), wanted)


class Tokens:
    """Access tokens, several valid at a time, each until its own end."""

    def __init__(self, credentials: Credentials, rules: Rules, clock: Callable[[], float] = time.monotonic) -> None:
        self.credentials = credentials
        self._rules = rules
        self._clock = clock
        self._ends: Bounded[str, float] = Bounded(10_000)

    def grant(self, body: Json) -> Json:
        """POST /v1.0/oauth2/accessToken."""
        if not self.credentials.match(body.get("appKey"), body.get("appSecret")):
            raise bad_param("invalidClientIdOrSecret", "无效的clientId或者clientSecret")
        return {"accessToken": self._new(), "expireIn": int(self._rules.token_s)}

    def grant_old(self, query: Json) -> Json:
        """GET /gettoken."""
        if not self.credentials.match(query.get("appkey"), query.get("appsecret")):
            raise old_error(40089, "不合法的corpid或corpsecret")
        return {"errcode": 0, "errmsg": "ok", "access_token": self._new(), "expires_in": int(self._rules.token_s)}

    def check(self, token: str | None) -> None:
        """Raises Refused unless the token is valid now."""
        if token is None or self._clock() >= self._ends.get(token, 0.0):
            raise bad_token()

    def expire(self) -> None:
        """End every token at once."""
        self._ends.clear()

    def _new(self) -> str:
        token = f"at-{uuid.uuid4().hex}"
        self._ends[token] = self._clock() + self._rules.token_s
        return token


class Quota:
    """Calls of one app: so many a second to each route, so many a month to all."""

    def __init__(self, rules: Rules, clock: Callable[[], float] = time.monotonic) -> None:
        self._rules = rules
        self._clock = clock
        self._granted: dict[str, deque[float]] = {}
        self._used = 0

    def spend(self, route: str) -> None:
        """Count one call. Raises Refused beyond the limits; a refused call is not counted."""
        if self._rules.month and self._used >= self._rules.month:
            raise Refused(403, "Forbidden.AccessDenied.ApiCountLimitForOrg", "本月调用次数已用完")
        limit = self._rules.qps_of.get(route, self._rules.qps)
        if limit:
            now = self._clock()
            granted = self._granted.setdefault(route, deque())
            while granted and granted[0] <= now - 1:
                granted.popleft()
            if len(granted) >= limit:
                raise Refused(403, "Forbidden.AccessDenied.QpsLimitForAppkeyAndApi", "应用调用该接口超过QPS限制")
            granted.append(now)
        self._used += 1

    def clear(self) -> None:
        """Start a new month and a new second."""
        self._granted.clear()
        self._used = 0
