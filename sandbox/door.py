"""The one way in for every call of the platform's API: faults, token, quota, then the handler."""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from sandbox.refusal import Refused, bad_param
from sandbox.world import World

Json = dict[str, Any]
Handler = Callable[[Json], Json]

TOKEN_HEADER = "x-acs-dingtalk-access-token"  # noqa: S105 (the name of a header)


def answer(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON response."""
    return Response(msgspec.json.encode(body), status, headers, media_type="application/json")


async def read_body(request: Request) -> Json:
    """The JSON object that came. Raises Refused if it is none."""
    try:
        body = msgspec.json.decode(await request.body() or b"{}")
    except (msgspec.DecodeError, RecursionError) as exc:
        raise bad_param("InvalidParameter", "the body is no JSON") from exc
    if not isinstance(body, dict):
        raise bad_param("InvalidParameter", "the body is no JSON object")
    return body


class Door:
    """Lets a call through to its handler, or refuses it and says so in the log."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._requests = itertools.count(1)

    async def call(self, request: Request, handler: Handler, *, guarded: bool) -> Response:
        """One call with a JSON body; `guarded` ones need a token and are counted."""
        try:
            body = await read_body(request)
        except Refused as refusal:
            return self._refuse(request.url.path, {}, refusal, processed=False)

        def admitted(body: Json) -> Json:
            if guarded:
                self._world.tokens.check(request.headers.get(TOKEN_HEADER))
                self._world.quota.spend(request.url.path)
            return handler(body)

        return await self.process(request.url.path, body, admitted)

    async def process(self, route: str, body: Json, handler: Handler) -> Response:
        """One call whose input is read already."""
        fault = self._world.faults.take(route)
        try:
            if fault is None:
                return answer(handler(body))
            if not fault.after:
                await asyncio.sleep(fault.delay_ms / 1000)
                fault.refuse(body)
                return answer(handler(body))
            done = handler(body)
        except Refused as refusal:
            return self._refuse(route, body, refusal, processed=False)
        await asyncio.sleep(fault.delay_ms / 1000)
        try:
            fault.refuse(body)
        except Refused as refusal:
            return self._refuse(route, body, refusal, processed=True)
        return answer(done)

    def _refuse(self, route: str, body: Json, refusal: Refused, *, processed: bool) -> Response:
        fields = {"card": body["outTrackId"]} if isinstance(body.get("outTrackId"), str) else {}
        self._world.journal.add(
            "refused", route=route, status=refusal.status, code=refusal.code, processed=processed, **fields
        )
        return answer(refusal.as_body(f"REQ-{next(self._requests)}"), refusal.status, refusal.headers)
