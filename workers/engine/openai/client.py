"""The HTTP of the engine `openai`: one exchange with one server, bounded in every step.

An exchange has one timer. It begins with the time to the first token and is set anew at each sign of life, so that a
server that drips headers, comments or empty events gains nothing by it.
"""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from app.errors import BadSetting
from workers.engine.fitting import Messages
from workers.engine.interface import Finish
from workers.engine.openai.answer import Answer
from workers.engine.openai.chunks import DONE, read_chunk
from workers.engine.openai.events import Events, Unreadable
from workers.engine.openai.failures import Failure, judge, read_error
from workers.engine.openai.pool import sweep
from workers.engine.openai.servers import Server

_SUSPECT_S: Final = 10.0  # for the first token of a server that failed before
_ERROR_BYTES: Final = 65_536
_JSON_BYTES: Final = 4_000_000  # a list of models; or all tokens of a prompt, which we do not need but get
_KEPT_S: Final = 4.0  # an idle connection; uvicorn, and so vLLM and SGLang, closes it after 5
_STOPS: Final = 4  # the API takes no more; the rest is ours to find, as all are if the server does not heed them
_THREADS: Final = 2  # a slot, of the worker: each has one answer under way, or counts the tokens of one
_SPARE_CONNECTIONS: Final = 8  # those that are being closed

_UNREACHED: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.InvalidURL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long a server may take, in seconds."""

    connect_s: float = 5.0
    first_token_s: float = 60.0  # from the connection to the first token: includes its own queue
    between_tokens_s: float = 30.0
    answer_s: float = 600.0
    tail_s: float = 2.0  # from the reason of the end to the end: the usage comes there
    ask_s: float = 5.0  # for what is no answer: its models, a number of tokens


class Client:
    """Connections to all servers, at most as many as the worker has threads and a few. Belongs to one event loop."""

    def __init__(self, *, model: str, slots: int, api_key: str, ca_file: Path | None, limits: Limits) -> None:
        """Raises BadSetting if the certificates cannot be read."""
        self.model, self._limits = model, limits
        connections = httpx.Limits(
            max_connections=_THREADS * slots + _SPARE_CONNECTIONS,
            max_keepalive_connections=slots,
            keepalive_expiry=_KEPT_S,
        )
        self._http = httpx.AsyncClient(
            verify=_trusted(ca_file),
            trust_env=False,  # a proxy of the environment is for the world outside, and would see every word
            timeout=httpx.Timeout(None, connect=limits.connect_s, pool=limits.ask_s),
            limits=connections,
            headers={"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {api_key}"} if api_key else {}),
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def chat(self, server: Server, answer: Answer) -> Finish:
        """Have a server answer; returns when the answer is complete, and how it ended.

        Raises:
            Failure, TooLong, Unknown, RequestRejected: no token came.
            EngineStopped: some did.
        """
        try:
            async with asyncio.timeout(self._first_token_s(server)) as timer:
                await self._read_answer(server, answer, timer)
        except TimeoutError:
            if answer.complete is None:
                raise self._silent(server, answer) from None
        except _UNREACHED as exc:
            raise _unreached(exc) from exc
        except (httpx.HTTPError, Unreadable) as exc:
            if answer.complete is None:
                raise answer.lost(_said(exc)) from exc
        if answer.complete is None:
            raise answer.lost("the answer ended without saying why")
        return answer.complete

    async def models(self, server: Server) -> list[dict[str, Any]]:
        """What the server says of each of its models; `id` is a name. Raises Failure."""
        found = await self._ask("GET", f"{server.url}/models")
        listed = found.get("data")
        return [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []

    async def count(self, server: Server, messages: Messages) -> dict[str, Any]:
        """vLLM's word on how many tokens a prompt has: `count`, and the model's limit. Raises Failure."""
        body = {"model": self.model, "messages": _chat(messages), "add_generation_prompt": True}
        return await self._ask("POST", f"{server.root}/tokenize", body)

    async def _read_answer(self, server: Server, answer: Answer, timer: asyncio.Timeout) -> None:
        loop, limits = asyncio.get_running_loop(), self._limits
        ends_at = loop.time() + limits.answer_s
        async with self._opened("POST", f"{server.url}/chat/completions", self._body(server, answer)) as got:
            await _require_stream(got, answer)
            async for data in _events(got):
                if not data:
                    continue  # a sign of the connection, not of the model
                if data == DONE:
                    if answer.complete is None:
                        return
                    continue
                if answer.take(read_chunk(data)):
                    # The last one too: then the usage follows, and the end, after which the connection is used again.
                    next_s = limits.between_tokens_s if answer.complete is None else limits.tail_s
                    timer.reschedule(min(ends_at, loop.time() + next_s))
                if answer.enough:
                    return

    def _first_token_s(self, server: Server) -> float:
        """Who failed before has less time: somebody waits for what may be the next failure."""
        return min(self._limits.first_token_s, _SUSPECT_S) if server.suspect else self._limits.first_token_s

    def _silent(self, server: Server, answer: Answer) -> Exception:
        if answer.begun:
            return answer.lost("the model server fell silent in the middle of an answer")
        return Failure("slow", f"no token within {self._first_token_s(server):g} s")

    def _body(self, server: Server, answer: Answer) -> dict[str, Any]:
        """The request in the words of the API; what has its default is left out."""
        request = answer.request
        most = "max_completion_tokens" if "max_tokens" in server.left_out else "max_tokens"
        body: dict[str, Any] = {
            "model": request.adapter or self.model,
            "messages": _chat(answer.messages),
            "stream": True,
            most: answer.max_new_tokens,
            "temperature": request.temperature,
        }
        if "stream_options" not in server.left_out:
            body["stream_options"] = {"include_usage": True}
        optional = {
            "top_p": request.top_p if request.top_p < 1 else None,
            "top_k": request.top_k or None,
            "stop": list(request.stop[:_STOPS]) or None,
            "seed": request.seed,
        }
        return body | {name: value for name, value in optional.items() if value is not None}

    async def _ask(self, method: str, url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """One small exchange, JSON to JSON."""
        try:
            async with asyncio.timeout(self._limits.ask_s), self._opened(method, url, body) as got:
                content = await _content(got, _JSON_BYTES)
        except TimeoutError:
            raise Failure("slow", f"no answer within {self._limits.ask_s:g} s") from None
        except _UNREACHED as exc:
            raise _unreached(exc) from exc
        except (httpx.HTTPError, Unreadable) as exc:
            raise Failure("failed", _said(exc)) from exc
        if got.status_code != 200:
            raise _refusal(got, content)
        try:
            found = json.loads(content)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise Failure("failed", "the answer is no JSON object")
        return found

    @asynccontextmanager
    async def _opened(self, method: str, url: str, body: dict[str, Any] | None) -> AsyncIterator[httpx.Response]:
        """An answer whose head is read; closed at the end, with its connection if it was not read to its end."""
        content = None if body is None else json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        headers = {"Content-Type": "application/json"} if body is not None else None
        request = self._http.build_request(method, url, content=content, headers=headers)
        try:
            response = await self._http.send(request, stream=True)
            try:
                if response.headers.get("content-encoding", "identity") != "identity":
                    raise Unreadable("the answer is compressed, which was not asked for")
                yield response
            finally:
                await response.aclose()
        finally:
            await sweep(self._http)


async def _require_stream(response: httpx.Response, answer: Answer) -> None:
    """Raise what an answer means that is no stream of events."""
    if response.status_code != 200:
        said = read_error(await _content(response, _ERROR_BYTES))
        adapter, again = answer.request.adapter is not None, response.headers.get("retry-after", "")
        raise judge(response.status_code, said, retry_after=again, texts=answer.texts, adapter=adapter)
    if response.headers.get("content-type", "").partition(";")[0].strip().lower() != "text/event-stream":
        raise Unreadable("the answer is no stream of events")


async def _events(response: httpx.Response) -> AsyncIterator[str]:
    events = Events()
    async for chunk in response.aiter_raw():
        for data in events.feed(chunk):
            yield data


async def _content(response: httpx.Response, limit_bytes: int) -> bytes:
    """The whole of a small answer. Raises Unreadable if it is larger."""
    content = bytearray()
    async for chunk in response.aiter_raw():
        content += chunk
        if len(content) > limit_bytes:
            raise Unreadable(f"an answer has more than {limit_bytes} bytes")
    return bytes(content)


def _refusal(response: httpx.Response, content: bytes) -> Failure:
    """What a status other than 200 means where nothing of a person is at stake."""
    again = response.headers.get("retry-after", "")
    found = judge(response.status_code, read_error(content), retry_after=again, texts=(), adapter=False)
    return found if isinstance(found, Failure) else Failure("failed", f"failed with {response.status_code}")


def _unreached(exc: Exception) -> Failure:
    """Nothing was sent: there was no connection."""
    if isinstance(exc, httpx.PoolTimeout):
        return Failure("busy", "all connections of this worker are in use")  # no fault of the server
    if "CERTIFICATE_VERIFY_FAILED" in str(exc):
        return Failure("setting", "SWITCHYARD_OPENAI_CA_FILE: the server's certificate is signed by nobody we trust")
    return Failure("down", f"no connection ({type(exc).__name__})")


def _said(exc: Exception) -> str:
    """Our own words, or the name of a foreign error: its text may quote an answer."""
    return str(exc) if isinstance(exc, Unreadable) else f"the connection broke ({type(exc).__name__})"


def _chat(messages: Messages) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in messages]


def _trusted(ca_file: Path | None) -> ssl.SSLContext:
    """Who signs a server's certificate: those of the file; without one those of the system and of certifi."""
    if ca_file is None:
        context = httpx.create_ssl_context(trust_env=False)
        context.load_default_certs()
        return context
    try:
        return ssl.create_default_context(cafile=str(ca_file))
    except (OSError, ssl.SSLError) as exc:
        raise BadSetting(f"SWITCHYARD_OPENAI_CA_FILE: {ca_file} holds no certificates in PEM form") from exc
