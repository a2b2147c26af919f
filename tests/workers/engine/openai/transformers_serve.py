"""`transformers serve` on localhost: `python -m tests.workers.engine.openai.transformers_serve MODEL PORT`.

Its handlers, its generation and its stream of events are its own. It also needs `fastapi` and `openai`, which this
project does without: where they are not installed, routes of Starlette and models of pydantic stand in for what it
takes from them, the list of parameters included. Without `accelerate` it names no device, which is the CPU.
"""

import importlib.util
import inspect
import sys
from collections.abc import Awaitable, Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import starlette.exceptions
import starlette.middleware.cors
import starlette.requests
import starlette.responses
from pydantic import BaseModel, ConfigDict
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.routing import Route
from typing_extensions import TypedDict

# The parameters of a chat completion, by the OpenAI API reference; those of one server alone, such as top_k, are none.
PARAMETERS = """
    messages model stream stream_options max_tokens max_completion_tokens temperature top_p stop seed n
    frequency_penalty presence_penalty logit_bias logprobs top_logprobs tools tool_choice response_format user
"""
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class RoutesOnly:
    """What `transformers serve` uses of FastAPI."""

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._routes: list[Route] = []
        self._middleware: list[Middleware] = []
        self._handlers: dict[Any, Any] = {starlette.exceptions.HTTPException: _say_detail}
        self._app: Starlette | None = None

    def exception_handler(self, kind: type[Exception]) -> Decorator:
        return lambda function: self._handlers.setdefault(kind, function)

    def middleware(self, _: str) -> Decorator:
        def add(function: Callable[..., Any]) -> Callable[..., Any]:
            self._middleware.append(Middleware(BaseHTTPMiddleware, dispatch=function))
            return function

        return add

    def _route(self, method: str, path: str) -> Decorator:
        def add(function: Callable[..., Any]) -> Callable[..., Any]:
            self._routes.append(Route(path, _endpoint(function), methods=[method]))
            return function

        return add

    def get(self, path: str) -> Decorator:
        return self._route("GET", path)

    def post(self, path: str) -> Decorator:
        return self._route("POST", path)

    def options(self, path: str) -> Decorator:
        return self._route("OPTIONS", path)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._app is None:
            self._app = Starlette(
                routes=self._routes, middleware=self._middleware, exception_handlers=self._handlers, **self._options
            )
        await self._app(scope, receive, send)


def _endpoint(function: Callable[..., Any]) -> Callable[[starlette.requests.Request], Awaitable[Any]]:
    names = inspect.signature(function).parameters

    async def answer(request: starlette.requests.Request) -> Any:
        given = {"request": request, "body": await request.json() if "body" in names else None}
        found = function(**{name: given[name] for name in names})
        return await found if inspect.isawaitable(found) else found

    return answer


async def _say_detail(_: starlette.requests.Request, exc: Any) -> starlette.responses.JSONResponse:
    return starlette.responses.JSONResponse({"detail": exc.detail}, status_code=exc.status_code)


class Fields(BaseModel):
    """Any fields, kept as they are."""

    model_config = ConfigDict(extra="allow")


def _types(name: str) -> Any:
    """A class of this name out of `openai.types`."""
    if name.startswith("__"):
        raise AttributeError(name)
    if "Params" in name:
        return TypedDict(name, dict.fromkeys(PARAMETERS.split(), Any), total=False)  # type: ignore[operator]
    return type(name, (Fields,), {})


def _stand_in(name: str, **content: Any) -> None:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None, is_package=True)
    module.__dict__.update({"__path__": [], **content})
    sys.modules[name] = module


def stand_in_for_what_is_missing() -> None:
    if importlib.util.find_spec("fastapi") is None:
        _stand_in(
            "fastapi",
            FastAPI=RoutesOnly,
            Request=starlette.requests.Request,
            HTTPException=starlette.exceptions.HTTPException,
        )
        _stand_in("fastapi.middleware")
        sys.modules["fastapi.middleware.cors"] = starlette.middleware.cors
        sys.modules["fastapi.responses"] = starlette.responses
    if importlib.util.find_spec("openai") is None:
        chat = ("chat", "chat.chat_completion", "chat.chat_completion_chunk", "chat.completion_create_params")
        others = ("responses", "responses.response_create_params", "responses.response_usage", "completion_usage")
        more = ("completion_create_params", "audio", "audio.transcription_create_params")
        _stand_in("openai")
        _stand_in("openai.types", __getattr__=_types)
        for name in (*chat, *others, *more):
            _stand_in(f"openai.types.{name}", __getattr__=_types)


def main() -> None:
    stand_in_for_what_is_missing()
    from transformers.cli.serve import Serve
    from transformers.cli.serving.model_manager import ModelManager

    if importlib.util.find_spec("accelerate") is None:
        ModelManager.device = property(lambda self: None, lambda self, device: None)
    Serve(force_model=sys.argv[1], device="cpu", dtype="float32", host="127.0.0.1", port=int(sys.argv[2]))


if __name__ == "__main__":
    main()
