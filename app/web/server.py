"""Health, readiness and metrics over HTTP.

GET /healthz says that this process lives, GET /readyz that all of them work, GET /metrics how full the house is.
"""

import socket

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from app import process
from app.metrics import Metrics
from app.settings import Settings
from app.web.readiness import Readiness

_LAST_REQUESTS_S = 3


def application(settings: Settings) -> Starlette:
    """The three pages."""
    readiness, measured = Readiness(settings), Metrics(settings)

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        missing = await readiness.missing()
        body: dict[str, object] = {"ready": not missing}
        body |= {name: lines for name, lines in (("missing", missing), ("full", readiness.full)) if lines}
        return JSONResponse(body, status_code=503 if missing else 200)

    async def metrics(request: Request) -> Response:
        text, content_type = await measured.page(request.headers.get("Accept", ""))
        return Response(text, headers={"Content-Type": content_type})

    pages = {"/healthz": healthz, "/readyz": readyz, "/metrics": metrics}
    return Starlette(routes=[Route(path, page) for path, page in pages.items()])


def main(settings: Settings) -> None:
    """Serve until SIGTERM."""
    config = uvicorn.Config(
        application(settings),
        host=settings.bind,
        port=settings.web_port,
        log_config=None,  # our own, and no line for each request
        access_log=False,
        timeout_graceful_shutdown=_LAST_REQUESTS_S,
    )
    _Server(config).run()


class _Server(uvicorn.Server):
    """Says that it is ready when its port is open."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        process.ready()
