"""Health and readiness over HTTP: GET /healthz says that this process lives, GET /readyz that all of them work."""

import socket

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from app import process
from app.settings import Settings
from app.web.readiness import Readiness

_LAST_REQUESTS_S = 3


def application(settings: Settings) -> Starlette:
    """The two pages."""
    readiness = Readiness(settings)

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        missing = await readiness.missing()
        body = {"ready": False, "missing": missing} if missing else {"ready": True}
        return JSONResponse(body, status_code=503 if missing else 200)

    return Starlette(routes=[Route("/healthz", healthz), Route("/readyz", readyz)])


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
