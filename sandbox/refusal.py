"""How the platform says no: the error bodies of its new routes (HTTP status) and of its old ones (200 and errcode)."""

from typing import Any


class Refused(Exception):
    """A call that the platform answers with an error. Raised by handlers, turned into a response by the door.

    `code` is the platform's word for it; old routes use numbers, here as text.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str = "",
        *,
        headers: dict[str, str] | None = None,
        body: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(f"{status} {code}")
        self.status = status
        self.code = code
        self.message = message or code
        self.headers = headers or {}
        self.body = body

    def as_body(self, request_id: str) -> dict[str, Any]:
        """The JSON that goes out."""
        if self.body is not None and "code" not in self.body and "deny" not in self.body:
            return self.body
        return {"code": self.code, "message": self.message, "requestid": request_id, **(self.body or {})}


def bad_token() -> Refused:
    """A token that is unknown or expired: HTTP 400, not 401."""
    return Refused(400, "InvalidAuthentication", "不合法的access_token")


def old_error(errcode: int, errmsg: str) -> Refused:
    """An error of the old host: HTTP 200 all the same."""
    return Refused(200, str(errcode), errmsg, body={"errcode": errcode, "errmsg": errmsg})


def no_session() -> Refused:
    """The session webhook is unknown or expired."""
    return old_error(300001, "session 不存在")


def bad_param(code: str, message: str = "") -> Refused:
    """A call that can never succeed as it stands."""
    return Refused(400, code, message)


def no_permission(scope: str) -> Refused:
    """The app lacks a permission; the body names it."""
    refusal = Refused(403, "Forbidden.AccessDenied.AccessTokenPermissionDenied", "没有调用该接口的权限")
    refusal.body = {"code": refusal.code, "accessdenieddetail": {"requiredScopes": [scope]}}
    return refusal
