"""What an answer of the platform means: the error table of im-protocols 4.1, 4.3 and 5.5, pure."""

import math
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from app.errors import OutcomeUnknown, PlatformBusy, PlatformRefused, SwitchyardError

BLOCKED_S: Final = 300.0  # the platform's block of an address that called too often
FLOW_CONTROL_S: Final = 60.0
RETRY_AFTER_LIMIT_S: Final = 3_600.0

_TOKEN_CODES = frozenset({"InvalidAuthentication", "40014", "42001", "88"})
_BUSY_CODES = frozenset({"130101", "90018", "90002", "too.many.people", "too.many.group"})
_BUSY_WORDS = ("too.fast", "tooFast")
_UNKNOWN_STATUSES = frozenset({408, 500, 502, 503, 504})
_PLAIN_CODE = re.compile(r"[\w.:\-]{1,120}")
_NO_FAILURE = frozenset({"None", "0", "200", "ok", "OK", "success"})
_PUNISHED = re.compile(rb'"punish"\s*:\s*"deny"|"status"\s*:\s*1111\b')
_LISTS = ("invalidStaffIdList", "filteredStaffIdList")


class TokenRefused(PlatformRefused):
    """The access token is not valid any more; another one may be."""


class Throttled(PlatformBusy):
    """This API had too many calls of ours within the second."""


class Blocked(PlatformBusy):
    """The platform blocked our address: every call waits."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP answer, as far as we look at it."""

    status: int
    body: bytes
    retry_after: str = ""

    def fields(self) -> Mapping[str, Any] | None:
        """The body as an object; None if it is none."""
        try:
            decoded = msgspec.json.decode(self.body)
        except (msgspec.DecodeError, RecursionError):
            return None
        return decoded if isinstance(decoded, dict) else None


def code_of(fields: Mapping[str, Any] | None) -> str:
    """The platform's own word for the failure, fit for a log; empty if there is none."""
    known = fields or {}
    code = str(known.get("code", known.get("errcode")))
    return code if _PLAIN_CODE.fullmatch(code) and code not in _NO_FAILURE else ""


def diagnosis(fields: Mapping[str, Any] | None) -> dict[str, str]:
    """What an operator needs of a refusal: ids and scopes, never contents."""
    known = fields or {}
    detail = known.get("accessdenieddetail")
    scopes = detail.get("requiredScopes") if isinstance(detail, dict) else None
    found = {"requestid": known.get("requestid") or known.get("requestId"), "scopes": scopes}
    return {name: str(value)[:200] for name, value in found.items() if value}


def judge(answer: Answer) -> SwitchyardError | None:
    """The error that an answer means; None if what was asked is done."""
    fields = answer.fields()
    if _PUNISHED.search(answer.body[:4096]) or (fields is None and b"punish" in answer.body):
        return Blocked("punish", retry_after_s=BLOCKED_S)
    code = code_of(fields)
    if 200 <= answer.status < 300:
        return _judge_success(answer, fields, code)
    if answer.status == 401 or code in _TOKEN_CODES:
        return TokenRefused(code or "http.401")
    if answer.status == 429 or "QpsLimit" in code:
        return Throttled(code or "http.429", retry_after_s=_retry_after_s(answer.retry_after))
    if _is_busy(code):
        return PlatformBusy(code, retry_after_s=_retry_after_s(answer.retry_after))
    if answer.status in _UNKNOWN_STATUSES or answer.status > 504:
        return OutcomeUnknown(code or f"http.{answer.status}")
    return PlatformRefused(code or f"http.{answer.status}")


def _judge_success(answer: Answer, fields: Mapping[str, Any] | None, code: str) -> SwitchyardError | None:
    """HTTP 200 on failure is usual: old APIs say `errcode`, cards `success`, messages name who got nothing."""
    if fields is None:
        return OutcomeUnknown(f"http.{answer.status} without a JSON object")  # some proxy answered
    if code in _TOKEN_CODES:
        return TokenRefused(code)
    if _is_busy(code):
        return PlatformBusy(code, retry_after_s=_retry_after_s(answer.retry_after))
    if code:
        return PlatformRefused(code)
    if fields.get("success") is False or _undelivered(fields):
        return PlatformRefused("undelivered")
    if fields.get("flowControlledStaffIdList"):
        return PlatformBusy("flowControlledStaffIdList", retry_after_s=FLOW_CONTROL_S)
    named = next((name for name in _LISTS if fields.get(name)), None)
    return PlatformRefused(named) if named else None


def _undelivered(fields: Mapping[str, Any]) -> bool:
    result = fields.get("result")
    delivered = result.get("deliverResults") if isinstance(result, dict) else result
    if not isinstance(delivered, list):
        return False
    return any(isinstance(one, dict) and one.get("success") is False for one in delivered)


def _is_busy(code: str) -> bool:
    return code in _BUSY_CODES or any(word in code for word in _BUSY_WORDS)


def _retry_after_s(header: str) -> float:
    """Seconds of a Retry-After header; 1 if it names none. A date is not used by this platform."""
    try:
        seconds = float(header)
    except ValueError:
        return 1.0
    return min(max(seconds, 0.1), RETRY_AFTER_LIMIT_S) if math.isfinite(seconds) else 1.0
