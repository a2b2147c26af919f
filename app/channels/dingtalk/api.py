"""The platform's HTTP API: one method a call, blocking, safe from many threads, each bounded in time.

Every failure leaves as PlatformBusy (nothing was done), OutcomeUnknown (it may have been done) or PlatformRefused;
which one is verdict.py's to say. Bodies, tokens and webhooks are never logged.
"""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import httpx
import msgspec
import structlog

from app.channels.dingtalk.download import fetch
from app.channels.dingtalk.exchange import BoundedClient, Unread
from app.channels.dingtalk.limiter import DRAFT_SHARE, Limiter
from app.channels.dingtalk.token import AccessToken
from app.channels.dingtalk.verdict import Answer, Blocked, Throttled, TokenRefused, code_of, diagnosis, judge
from app.channels.outlet import Fence, NoFence
from app.crashpoints import crashpoint
from app.errors import BadPicture, OutcomeUnknown, PlatformBusy, PlatformRefused
from app.settings import LOOPBACK

log = structlog.get_logger()

TOKEN: Final = "/v1.0/oauth2/accessToken"  # noqa: S105  a path
CREATE: Final = "/v1.0/card/instances/createAndDeliver"
STREAMING: Final = "/v1.0/card/streaming"
INSTANCES: Final = "/v1.0/card/instances"
CARD_CALLS: Final = frozenset((CREATE, STREAMING, INSTANCES))
TO_PERSON: Final = "/v1.0/robot/oToMessages/batchSend"
TO_GROUP: Final = "/v1.0/robot/groupMessages/send"
DOWNLOAD: Final = "/v1.0/robot/messageFiles/download"
PATIENCE_S: Final = 0.2  # no thread sleeps longer for a grant; the caller comes back at the time that it is told
CONNECT_S: Final = 2.0
DOWNLOAD_S: Final = 30.0
DOWNLOAD_LIMIT_BYTES: Final = 20_000_000
PLATFORM_DOMAINS: Final = ("dingtalk.com", "dingtalk.io")

NO_FENCE: Final = NoFence()

Json = dict[str, Any]


class DingTalkApi:
    """One app at the platform."""

    def __init__(
        self,
        *,
        openapi: str,
        oapi: str,
        client_id: str,
        client_secret: str,
        calls_per_s: float = 20.0,
        read_s: float = 5.0,
        monotonic: Callable[[], float] = time.monotonic,
        on_card_call: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_card_call` is told of each card call before it is made: the platform counts refused ones too."""
        self._openapi = openapi.rstrip("/")
        self._oapi = oapi.rstrip("/")
        self._credentials = {"appKey": client_id, "appSecret": client_secret}
        self._calls_per_s = calls_per_s
        self._monotonic = monotonic
        self._on_card_call = on_card_call
        self._timeout = httpx.Timeout(read_s, connect=CONNECT_S)
        self._within_s = 2 * read_s  # a whole call, however slowly its answer comes
        self._of_thread = threading.local()
        self._clients: list[BoundedClient] = []
        self._token = AccessToken(self._fetch_token, monotonic)
        self._limiters: dict[str, Limiter] = {}
        self._limiters_lock = threading.Lock()
        self._blocked_until = 0.0

    def close(self) -> None:
        """Close the idle connections."""
        for client in self._clients:
            client.close()

    def create_card(self, body: Json, fence: Fence = NO_FENCE) -> None:
        """Create a card and deliver it. Idempotent by `outTrackId`: a card that is there already is a success."""
        try:
            self._call("POST", CREATE, body, fence=fence)
        except PlatformRefused as exc:
            if exc.code != "param.cardAlreadyExist":
                raise

    def draft_card(self, body: Json, fence: Fence = NO_FENCE) -> None:
        """Update the text of a card. PlatformBusy at once when only the reserve for other calls is left."""
        self._stream(body, fence=fence, share=DRAFT_SHARE, patience_s=0.0)

    def finish_card(self, body: Json, fence: Fence = NO_FENCE) -> None:
        """Update the text of a card for the last time. Idempotent by `guid`."""
        self._stream(body, fence=fence, share=1.0, patience_s=PATIENCE_S)

    def set_card(self, body: Json, fence: Fence = NO_FENCE) -> None:
        """Overwrite variables of a card."""
        self._call("PUT", INSTANCES, body, fence=fence)

    def send_to_person(self, body: Json, fence: Fence = NO_FENCE) -> None:
        """Send a message of the robot's own to one person."""
        self._call("POST", TO_PERSON, body, fence=fence)

    def send_to_group(self, body: Json, fence: Fence = NO_FENCE) -> None:
        """Send a message of the robot's own to a group."""
        self._call("POST", TO_GROUP, body, fence=fence)

    def post_webhook(self, url: str, body: Json, fence: Fence = NO_FENCE) -> None:
        """Post to a session's webhook. The address came with a message: it is used only if it is the platform's."""
        if not self.trusts(url):
            raise PlatformRefused("webhook.host")
        self._exchange("POST", url, body, fence=fence, api="sendBySession")

    def download(
        self, code: str, robot: str, *, limit_bytes: int = DOWNLOAD_LIMIT_BYTES, limit_s: float = DOWNLOAD_S
    ) -> bytes:
        """The bytes behind a download code.

        Raises:
            BadPicture: there is nothing to be had, or it is larger or slower than allowed.
            PlatformBusy: not now.
        """
        try:
            answer = self._call("POST", DOWNLOAD, {"downloadCode": code, "robotCode": robot}, fence=NO_FENCE)
        except PlatformRefused as exc:
            raise BadPicture(f"download refused: {exc.code}") from exc
        except OutcomeUnknown as exc:  # asking twice harms nobody
            raise PlatformBusy(f"download: {exc}") from exc
        url = answer.get("downloadUrl")
        if not isinstance(url, str):
            raise BadPicture("an answer without downloadUrl")
        inward = httpx.URL(self._openapi).host in LOOPBACK  # a sandbox keeps its files on this machine too
        return fetch(self._client(), url, limit_bytes=limit_bytes, limit_s=limit_s, inward=inward)

    def trusts(self, url: str) -> bool:
        """Whether an address from outside is the platform's own: https to its domains, or a configured endpoint.

        A platform that is configured on this very machine, a sandbox, may name any port of it.
        """
        try:
            target, own = httpx.URL(url), [httpx.URL(self._openapi), httpx.URL(self._oapi)]
        except (httpx.InvalidURL, ValueError):
            return False
        if target.userinfo:
            return False
        if any((target.scheme, target.host, target.port) == (one.scheme, one.host, one.port) for one in own):
            return True
        if {target.host, own[0].host} <= LOOPBACK:
            return target.scheme in ("http", "https")
        host = target.host.lower()
        named = any(host == domain or host.endswith(f".{domain}") for domain in PLATFORM_DOMAINS)
        return named and target.scheme == "https" and target.port is None

    def _stream(self, body: Json, *, fence: Fence, share: float, patience_s: float) -> None:
        """`unknownError` is mostly a wrong variable name, at times a hiccup: one more try, then it is a refusal."""
        for _ in range(2):
            try:
                self._call("PUT", STREAMING, body, fence=fence, share=share, patience_s=patience_s)
            except OutcomeUnknown as exc:
                if str(exc) != "unknownError":
                    raise
            else:
                return
        raise PlatformRefused("unknownError")

    def _call(
        self, method: str, path: str, body: Json, *, fence: Fence, share: float = 1.0, patience_s: float = PATIENCE_S
    ) -> Mapping[str, Any]:
        """One call with a token and a grant; a refused token is replaced once."""
        token = self._token.get()
        try:
            return self._granted_call(method, path, body, token, fence=fence, share=share, patience_s=patience_s)
        except TokenRefused:
            self._token.drop(token)
        token = self._token.get()
        return self._granted_call(method, path, body, token, fence=fence, share=share, patience_s=patience_s)

    def _granted_call(
        self, method: str, path: str, body: Json, token: str, *, fence: Fence, share: float, patience_s: float
    ) -> Mapping[str, Any]:
        limiter = self._limiter(path)
        granted, wait_s = limiter.take(share=share, patience_s=patience_s)
        if not granted:
            raise PlatformBusy("our own limit", retry_after_s=wait_s)
        if wait_s:
            time.sleep(wait_s)
        if path in CARD_CALLS:
            self._on_card_call()
        try:
            return self._exchange(method, self._openapi + path, body, fence=fence, api=path, token=token)
        except Throttled as exc:
            limiter.pause(exc.retry_after_s)
            raise

    def _limiter(self, path: str) -> Limiter:
        with self._limiters_lock:
            if path not in self._limiters:
                self._limiters[path] = Limiter(self._calls_per_s, self._monotonic)
            return self._limiters[path]

    def _client(self) -> BoundedClient:
        """This thread's own: in a pool that many threads share, each call looks through everybody's connections."""
        client: BoundedClient | None = getattr(self._of_thread, "client", None)
        if client is None:
            client = self._of_thread.client = BoundedClient(timeout=self._timeout)
            self._clients.append(client)
        return client

    def _fetch_token(self) -> Mapping[str, Any]:
        return self._exchange("POST", self._openapi + TOKEN, self._credentials, fence=NO_FENCE, api=TOKEN)

    def _exchange(
        self, method: str, url: str, body: Json, *, fence: Fence, api: str, token: str = ""
    ) -> Mapping[str, Any]:
        """One request, one answer. Raises what verdict.py makes of it."""
        if (left_s := self._blocked_until - self._monotonic()) > 0:
            raise PlatformBusy("the platform blocks this address", retry_after_s=left_s)
        fence.check()
        crashpoint("check/call")
        response = self._request(method, url, body, fence=fence, api=api, token=token)
        answer = Answer(
            status=response.status_code, body=response.content, retry_after=response.headers.get("retry-after", "")
        )
        error = judge(answer)
        if error is None:
            return answer.fields() or {}
        fields = answer.fields()
        log.warning(
            "platform call failed",
            api=api,
            status=answer.status,
            error=type(error).__name__,
            code=code_of(fields),
            **diagnosis(fields),
        )
        if isinstance(error, Blocked):
            self._blocked_until = self._monotonic() + error.retry_after_s
        raise error

    def _request(self, method: str, url: str, body: Json, *, fence: Fence, api: str, token: str) -> httpx.Response:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if token:
            headers["x-acs-dingtalk-access-token"] = token
        try:
            return self._client().exchange(
                method,
                url,
                within_s=self._within_s,
                until=fence.ends_at,
                content=msgspec.json.encode(body),
                headers=headers,
            )
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as exc:  # nothing was sent
            log.warning("platform not reached", api=api, error=type(exc).__name__)
            raise PlatformBusy(type(exc).__name__) from None  # the exception's request holds token and body
        except (httpx.TransportError, Unread) as exc:
            log.warning("platform did not answer", api=api, error=type(exc).__name__)
            raise OutcomeUnknown(type(exc).__name__) from None
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as exc:
            log.warning("platform call impossible", api=api, error=type(exc).__name__)
            raise PlatformRefused(type(exc).__name__) from None
