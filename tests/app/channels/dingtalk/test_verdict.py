"""The error table: what each answer of the platform means."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.channels.dingtalk.verdict import Answer, Blocked, Throttled, TokenRefused, code_of, diagnosis, judge
from app.errors import OutcomeUnknown, PlatformBusy, PlatformRefused

DENIED = "Forbidden.AccessDenied."


def answer(status: int, body: Any, retry_after: str = "") -> Answer:
    return Answer(status=status, body=json.dumps(body).encode(), retry_after=retry_after)


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (200, {"errcode": 0, "errmsg": "ok"}, None),
        (200, {"success": True, "result": True}, None),
        (200, {"success": True, "result": {"deliverResults": [{"success": True}]}}, None),
        (200, {"processQueryKey": "k", "invalidStaffIdList": [], "flowControlledStaffIdList": []}, None),
        (200, {"errcode": 300001, "errmsg": "session 不存在"}, PlatformRefused),
        (200, {"errcode": 310000}, PlatformRefused),
        (200, {"errcode": 130101}, PlatformBusy),
        (200, {"errcode": 90018}, PlatformBusy),
        (200, {"errcode": 90002}, PlatformBusy),
        (200, {"errcode": 40014}, TokenRefused),
        (200, {"errcode": 42001}, TokenRefused),
        (200, {"errcode": 88}, TokenRefused),
        (200, {"success": False}, PlatformRefused),
        (200, {"success": True, "result": {"deliverResults": [{"success": False}]}}, PlatformRefused),
        (200, {"invalidStaffIdList": ["a"]}, PlatformRefused),
        (200, {"filteredStaffIdList": ["a"]}, PlatformRefused),
        (200, {"flowControlledStaffIdList": ["a"]}, PlatformBusy),
        (200, ["no object"], OutcomeUnknown),
        (302, {}, PlatformRefused),
        (400, {"code": "InvalidAuthentication"}, TokenRefused),
        (401, {}, TokenRefused),
        (400, {"code": "param.stream.content"}, PlatformRefused),
        (400, {"code": "param.contentUnsafe"}, PlatformRefused),
        (400, {"code": "param.cardAlreadyExist"}, PlatformRefused),
        (400, {"code": "send.too.fast"}, PlatformBusy),
        (400, {"code": "send.byToken.tooFast"}, PlatformBusy),
        (400, {"code": "too.many.people"}, PlatformBusy),
        (400, {"code": "too.many.group"}, PlatformBusy),
        (400, {"code": "invalidParameter.userIds.invalid"}, PlatformRefused),
        (403, {"code": DENIED + "QpsLimitForAppkeyAndApi"}, Throttled),
        (403, {"code": DENIED + "QpsLimitForApi"}, Throttled),
        (403, {"code": DENIED + "ApiCountLimitForOrg"}, PlatformRefused),
        (403, {"code": DENIED + "AccessTokenPermissionDenied"}, PlatformRefused),
        (403, {"code": DENIED + "IpNotInWhiteList"}, PlatformRefused),
        (404, {}, PlatformRefused),
        (429, {}, Throttled),
        (500, {"code": "unknownError"}, OutcomeUnknown),
        (500, {"code": "system.busy"}, OutcomeUnknown),
        (502, {}, OutcomeUnknown),
        (503, {}, OutcomeUnknown),
        (504, {}, OutcomeUnknown),
        (200, {"punish": "deny"}, Blocked),
        (403, {"status": 1111}, Blocked),
    ],
)
def test_each_row_of_the_table(status: int, body: Any, error: type[Exception] | None) -> None:
    assert type(judge(answer(status, body))) is (error or type(None))


def test_a_page_that_blocks_us_is_known_without_json() -> None:
    error = judge(Answer(status=200, body=b"<html>punish</html>"))

    assert isinstance(error, Blocked)
    assert error.retry_after_s == 300


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), ("", 1.0), ("soon", 1.0), ("nan", 1.0), ("1e9", 3600.0)])
def test_retry_after_is_honoured_within_reason(header: str, seconds: float) -> None:
    error = judge(answer(429, {}, header))

    assert isinstance(error, PlatformBusy)
    assert error.retry_after_s == seconds


def test_a_log_line_gets_ids_and_scopes_and_no_contents() -> None:
    fields = {
        "requestId": "R1",
        "message": "secret",
        "accessdenieddetail": {"requiredScopes": ["Card.Streaming.Write"]},
    }

    assert diagnosis(fields) == {"requestid": "R1", "scopes": "['Card.Streaming.Write']"}
    assert code_of({"code": "words of a person, for instance"}) == ""


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(["code", "errcode", "success", "result", "invalidStaffIdList", "accessdenieddetail"])


@given(st.integers(100, 599), st.dictionaries(keys, json_values), st.text(max_size=5))
def test_every_answer_gets_a_verdict(status: int, body: dict[str, Any], retry_after: str) -> None:
    found = answer(status, body, retry_after)

    assert isinstance(judge(found), PlatformBusy | OutcomeUnknown | PlatformRefused | None)
    assert diagnosis(found.fields()) is not None
