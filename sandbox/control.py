"""The test's own routes under /sandbox: speak as a person, set faults, read the log."""

import base64
import binascii
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from sandbox.door import answer, read_body
from sandbox.gateway import Connection
from sandbox.refusal import Refused, bad_param
from sandbox.world import World

Json = dict[str, Any]


class Control:
    """What a test may ask of the sandbox. A wrong request is answered with 400 and says why."""

    def __init__(self, world: World) -> None:
        self._world = world

    def routes(self) -> list[BaseRoute]:
        """All routes."""
        world = self._world
        return [
            self._post("/sandbox/messages", self._messages),
            self._post("/sandbox/raw", self._raw),
            self._post("/sandbox/system", self._system),
            self._post("/sandbox/faults", self._fault),
            self._post("/sandbox/rules", self._rules),
            self._post("/sandbox/reset", self._reset),
            self._get("/sandbox/log", self._log),
            self._get("/sandbox/wait", self._wait),
            self._get("/sandbox/cards", lambda request: _later({"cards": world.cards.shown()})),
            self._get("/sandbox/connections", lambda request: _later({"connections": self._connections()})),
            self._get("/sandbox/rules", lambda request: _later(world.rules)),
        ]

    def _messages(self, body: Json) -> Any:
        """One message, or `{"messages": [...]}`: pushed in this order, one right after the other."""
        if "messages" not in body:
            return self._world.say(body)
        return {"messages": [self._world.say(message) for message in body["messages"]]}

    def _raw(self, body: Json) -> Json:
        """Any bytes as one frame: `text`, or `base64` for a binary frame; to "all", an index, or a random one."""
        if "text" in body:
            content: str | bytes = str(body["text"])
        else:
            try:
                content = base64.b64decode(str(body.get("base64", "")), validate=True)
            except binascii.Error as exc:
                raise bad_param("sandbox.raw", "base64 is no base64") from exc
        targets = self._world.gateway.pick(body.get("connection", 0))
        return {"pushed": sum(target.wire.push(content) for target in targets)}

    def _system(self, body: Json) -> Json:
        """A SYSTEM frame now: topic ping, KEEPALIVE, CONNECTED or REGISTERED."""
        for connection in self._world.gateway.pick(body.get("connection", "all")):
            self._world.gateway.system(connection, str(body.get("topic", "ping")), body.get("data", {"opaque": "k"}))
        return {}

    def _fault(self, body: Json) -> Json:
        """Set a lasting fault, do a momentary one to connections, or clear them all.

        disconnect (close_after_s, reason), drop (reset), tear (the next frame breaks off halfway) and zombie (pong)
        are done to a `connection`: an index, an id or "all"; a zombie may also be "next", for the next `times`
        connections. disconnect_every (every_s, close_after_s) and those in `faults.py` last.
        """
        act = _MOMENTARY.get(str(body.get("fault"))) if body.get("connection") != "next" else None
        if body.get("fault") == "clear":
            self._world.faults.clear()
        elif body.get("fault") == "clear_routes":
            self._world.faults.routes.clear()
        elif body.get("fault") == "expire_tokens":
            self._world.tokens.expire()
        elif body.get("fault") == "expire_webhooks":
            self._world.sessions.expire()
        elif body.get("fault") == "disconnect_every":
            self._world.gateway.disconnect_every(float(body.get("every_s", 3)), float(body.get("close_after_s", 10)))
        elif act is None:
            self._world.faults.plan(body)
        else:
            for connection in self._world.gateway.pick(body.get("connection", "all")):
                act(self._world, connection, body)
        return {"seq": self._world.journal.last}

    def _rules(self, body: Json) -> Json:
        self._world.rules.change(body)
        return {}

    def _reset(self, body: Json) -> Json:
        self._world.reset()
        return {"seq": self._world.journal.last}

    async def _log(self, request: Request) -> Json:
        since, limit = _number(request, "since", 0), _number(request, "limit", 10_000)
        events = self._world.journal.since(int(since), int(limit))
        following = events[-1]["seq"] if events else int(since)
        if kinds := set(filter(None, request.query_params.get("kinds", "").split(","))):
            events = [event for event in events if event["kind"] in kinds]
        return {"events": events, "next": following, "last": self._world.journal.last}

    async def _wait(self, request: Request) -> Json:
        after, timeout_s = _number(request, "after", 0), _number(request, "timeout_s", 10)
        conversation = request.query_params.get("conversation", "")
        return {"event": await self._world.journal.answer(conversation, int(after), timeout_s)}

    def _connections(self) -> list[Json]:
        return [
            {
                "index": index,
                "connection": connection.id,
                "topics": sorted(topic for _, topic in connection.topics),
                "retired": connection.retired,
                "mute": connection.mute,
            }
            for index, connection in enumerate(self._world.gateway.connections)
        ]

    def _post(self, path: str, act: Callable[[Json], Any]) -> Route:
        async def endpoint(request: Request) -> Response:
            try:
                return answer(act(await read_body(request)))
            except Refused as refusal:
                return answer({"error": refusal.message}, 400)
            except (ValueError, TypeError, AttributeError) as exc:
                return answer({"error": f"a field has a wrong type: {exc}"}, 400)

        return Route(path, endpoint, methods=["POST"])

    def _get(self, path: str, read: Callable[[Request], Awaitable[Any]]) -> Route:
        async def endpoint(request: Request) -> Response:
            try:
                return answer(await read(request))
            except Refused as refusal:
                return answer({"error": refusal.message}, 400)

        return Route(path, endpoint, methods=["GET"])


def _disconnect(world: World, connection: Connection, body: Json) -> None:
    world.gateway.disconnect(
        connection,
        close_after_s=float(body.get("close_after_s", 10)),
        reason=str(body.get("reason", "connection is expired")),
    )


def _drop(world: World, connection: Connection, body: Json) -> None:
    connection.wire.drop(reset=bool(body.get("reset", False)))


def _tear(world: World, connection: Connection, body: Json) -> None:
    connection.torn = True


def _zombie(world: World, connection: Connection, body: Json) -> None:
    world.gateway.kill(connection, pong=bool(body.get("pong", False)))


_MOMENTARY: dict[str, Callable[[World, Connection, Json], None]] = {
    "disconnect": _disconnect,
    "drop": _drop,
    "tear": _tear,
    "zombie": _zombie,
}


async def _later(value: Any) -> Any:
    return value


def _number(request: Request, name: str, default: float) -> float:
    try:
        return float(request.query_params.get(name, default))
    except ValueError as exc:
        raise bad_param("sandbox.query", f"{name} is no number") from exc
