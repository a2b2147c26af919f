"""The platform's own routes, each with the handler that answers it."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

from sandbox.door import Door, Handler
from sandbox.faults import OPEN
from sandbox.files import multipart
from sandbox.gateway import Topics
from sandbox.refusal import Refused, bad_param, old_error
from sandbox.sockets import SCOPE_KEY, Socket
from sandbox.world import World

Json = dict[str, Any]

XML = "<error><code>NotAcceptable</code><message>Accept: application/json is missing</message></error>"


class Platform:
    """The routes of api.dingtalk.com, oapi.dingtalk.com, the gateway and the file store, on one port."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._door = Door(world)

    def routes(self) -> list[BaseRoute]:
        """All routes, the busiest first."""
        world = self._world
        return [
            self._api("PUT", "/v1.0/card/streaming", world.cards.stream),
            self._api("POST", "/v1.0/card/instances/createAndDeliver", world.cards.create_and_deliver),
            Route("/robot/sendBySession", self._by_session, methods=["POST"]),
            self._api("PUT", "/v1.0/card/instances", world.cards.update),
            self._api("POST", "/v1.0/card/instances", world.cards.create),
            self._api("POST", "/v1.0/card/instances/deliver", world.cards.deliver),
            self._api("POST", "/v1.0/robot/oToMessages/batchSend", world.robot.to_people),
            self._api("POST", "/v1.0/robot/groupMessages/send", world.robot.to_group),
            self._api("POST", "/v1.0/robot/messageFiles/download", world.files.link),
            self._api("POST", "/v1.0/robot/emotion/reply", world.robot.react),
            self._api("POST", "/v1.0/robot/emotion/recall", world.robot.unreact),
            self._api("POST", "/v1.0/oauth2/accessToken", world.tokens.grant, guarded=False),
            Route("/gettoken", self._old_token, methods=["GET"]),
            Route("/media/upload", self._upload, methods=["POST"]),
            Route("/files/{link}", self._file, methods=["GET"]),
            Route(OPEN, self._open, methods=["POST"]),
            WebSocketRoute("/connect", self._connect),
        ]

    def _api(self, method: str, path: str, handler: Handler, *, guarded: bool = True) -> Route:
        async def endpoint(request: Request) -> Response:
            return await self._door.call(request, handler, guarded=guarded)

        return Route(path, endpoint, methods=[method])

    async def _open(self, request: Request) -> Response:
        if "application/json" not in request.headers.get("accept", ""):
            return Response(XML, 406, media_type="application/xml")
        host = request.headers.get("host", "")  # whoever came through a proxy connects through it too
        return await self._door.call(request, lambda body: self._ticket(body, host), guarded=False)

    def _ticket(self, body: Json, host: str) -> Json:
        if not self._world.credentials.match(body.get("clientId"), body.get("clientSecret")):
            raise bad_param("authFailed", "鉴权失败")
        ticket = self._world.gateway.open(_topics(body.get("subscriptions")))
        return {"endpoint": f"ws://{host}/connect", "ticket": ticket}

    async def _connect(self, websocket: WebSocket) -> None:
        gateway = self._world.gateway
        topics = gateway.redeem(websocket.query_params.get("ticket", ""))
        if topics is None:
            await websocket.send_denial_response(Response("bad ticket", 401))
            return
        await websocket.accept()
        socket: Socket = websocket.scope["extensions"][SCOPE_KEY]
        connection = gateway.join(socket, topics, socket.end)
        code = 1006
        try:
            while (message := await websocket.receive())["type"] == "websocket.receive":
                gateway.received(connection, message.get("text"))
            code = message.get("code", 1005)
        finally:
            gateway.leave(connection, code)

    async def _by_session(self, request: Request) -> Response:
        session = request.query_params.get("session", "")
        return await self._door.call(request, lambda body: self._world.sessions.send(session, body), guarded=False)

    async def _old_token(self, request: Request) -> Response:
        return await self._door.process("/gettoken", dict(request.query_params), self._world.tokens.grant_old)

    async def _upload(self, request: Request) -> Response:
        parts = multipart(request.headers.get("content-type", ""), await request.body())
        kind = request.query_params.get("type") or parts.get("type", b"").decode("utf-8", "replace")

        def handle(query: Json) -> Json:
            try:
                self._world.tokens.check(query.get("access_token"))
            except Refused as exc:
                raise old_error(40014, "不合法的access_token") from exc
            return self._world.files.upload(kind, parts.get("media"))

        return await self._door.process("/media/upload", dict(request.query_params), handle)

    async def _file(self, request: Request) -> Response:
        try:
            return Response(self._world.files.fetch(request.path_params["link"]), media_type="application/octet-stream")
        except Refused as refusal:
            return Response(status_code=refusal.status)


def _topics(subscriptions: Any) -> Topics:
    if not isinstance(subscriptions, list):
        raise bad_param("invalidParameter.subscriptions", "subscriptions is no list")
    known = ((item.get("type"), item.get("topic")) for item in subscriptions if isinstance(item, dict))
    return frozenset((kind, topic) for kind, topic in known if isinstance(kind, str) and isinstance(topic, str))
