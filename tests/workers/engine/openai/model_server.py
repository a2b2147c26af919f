"""A server of the OpenAI API on localhost without a model: it answers with the question, and has every fault by name.

The path of its base URL says how it behaves: `/echo-25/v1` answers 25 words a second, `/stall/v1` falls silent in the
middle. A behaviour is a function below; what stands behind the dash is its argument. `python -m
tests.workers.engine.openai.model_server` serves until it is killed, and prints its port first.
"""

import functools
import json
import re
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "smol"
ADAPTER = "french"
KEY = "sk-secret"
ERROR = b'data: {"error": {"message": "CUDA error", "code": 500}}\n\n'
LEAVE_S = 30.0  # how long a fault waits for its client to go

Json = dict[str, Any]
Behaviour = Callable[["Exchange", str], None]


class ModelServer(ThreadingHTTPServer):
    """Knows what it was asked, how many connections are open, and how many answers nobody waited for."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Exchange)
        self.asked: list[tuple[str, Json]] = []
        self.headers: list[dict[str, str]] = []
        self.open = 0
        self.left = 0
        self.connections = 0
        self.thoughts = 0
        self.lock = threading.Lock()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def url(self, behaviour: str) -> str:
        return f"http://127.0.0.1:{self.port}/{behaviour}/v1"

    def bodies(self, end: str = "/chat/completions") -> list[Json]:
        with self.lock:
            return [body for path, body in self.asked if path.endswith(end)]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what many tests are about."""


class Exchange(BaseHTTPRequestHandler):
    """One connection. `begin`, `say`, `end` write a streamed answer; faults write what they like."""

    protocol_version = "HTTP/1.1"
    server: ModelServer
    body: Json

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self.server.lock:
            self.server.open += 1
            self.server.connections += 1

    def finish(self) -> None:
        with self.server.lock:
            self.server.open -= 1
        super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._note({})
        owner = "vllm" if "vllm" in self.path else "somebody"
        limit = {"max_model_len": 64} if "small" in self.path else {}
        if not self.path.endswith("/v1/models"):
            self.answer(404, {"detail": "Not Found"})
        elif "locked" in self.path and self.headers.get("Authorization") != f"Bearer {KEY}":
            self.answer(401, {"error": {"message": "wrong key"}})
        else:
            self.answer(200, {"object": "list", "data": [{"id": MODEL, "owned_by": owner} | limit]})

    def do_POST(self) -> None:
        self.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._note(self.body)
        name, _, argument = self.path.split("/")[1].partition("-")
        if self.path.endswith("/tokenize"):
            self._tokenize(name, argument)
        else:
            BEHAVIOURS[name](self, argument)

    def _note(self, body: Json) -> None:
        with self.server.lock:
            self.server.asked.append((self.path, body))
            self.server.headers.append(dict(self.headers))

    def _tokenize(self, name: str, argument: str) -> None:
        if name != "counting":
            self.answer(404, {"detail": "Not Found"})
            return
        self.answer(200, {"count": self.words(), "max_model_len": int(argument), "tokens": []})

    def words(self) -> int:
        """Tokens of the prompt, as this server counts: words."""
        return sum(len(message["content"].split()) for message in self.body["messages"])

    def question(self) -> list[str]:
        return re.findall(r"\s*\S+|\s+", self.body["messages"][-1]["content"])

    def answer(self, status: int, body: Json, **headers: str) -> None:
        """One JSON answer."""
        content = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def begin(self, kind: str = "text/event-stream; charset=utf-8", **headers: str) -> None:
        """The head of a streamed answer, and the event with the role."""
        self.send_response(200)
        for name, value in {"Content-Type": kind, "Transfer-Encoding": "chunked", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.write(event({"role": "assistant", "content": ""}))

    def write(self, content: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(content), content))
        self.wfile.flush()

    def say(self, *pieces: str) -> None:
        for piece in pieces:
            self.write(event({"content": piece}))

    def end(self, reason: str = "stop", *, tokens: int | None = None) -> None:
        """The reason, the usage if it was asked for, and the end."""
        self.write(event({}, reason))
        if tokens is not None and self.body.get("stream_options"):
            usage = {"prompt_tokens": self.words(), "completion_tokens": tokens}
            self.write(b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n")
        self.write(b"data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def stay(self) -> None:
        """Say nothing more until the client goes."""
        select.select([self.connection], [], [], LEAVE_S)
        self.close_connection = True

    def reset(self) -> None:
        """End the connection as a process that was killed does."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()


def event(delta: Json, reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    body = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": MODEL, "choices": [choice]}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def echo(exchange: Exchange, per_s: str) -> None:
    """The question again, word by word. It has two models."""
    if exchange.body["model"] not in (MODEL, ADAPTER):
        message = f"The model `{exchange.body['model']}` does not exist."
        exchange.answer(404, {"error": {"message": message, "type": "NotFoundError", "code": 404}})
        return
    words = exchange.question()
    exchange.begin()
    for word in words:
        if per_s:
            gone, _, _ = select.select([exchange.connection], [], [], 1 / float(per_s))
            if gone:
                exchange.close_connection = True
                with exchange.server.lock:
                    exchange.server.left += 1
                return
        exchange.say(word)
    exchange.end(tokens=len(words))


def say_then(*pieces: str, then: Callable[[Exchange], None]) -> Behaviour:
    """Begin an answer, then do something else."""

    def behave(exchange: Exchange, _: str) -> None:
        exchange.begin()
        exchange.say(*pieces)
        then(exchange)

    return behave


def write_then_stay(content: bytes) -> Behaviour:
    return say_then(then=functools.partial(_write_and_stay, content=content))


def _write_and_stay(exchange: Exchange, content: bytes) -> None:
    exchange.write(content)
    exchange.stay()


def refuse(exchange: Exchange, argument: str) -> None:
    """`status-429-7`: this status, and Retry-After if there is a second number. Repeats the question, as some do."""
    status, _, again = argument.partition("-")
    message = f"refused: {exchange.body['messages'][-1]['content']}"
    body = {"error": {"message": message, "type": "SomeError", "code": int(status)}}
    exchange.answer(int(status), body, **({"Retry_After": again} if again else {}))


def reject(exchange: Exchange, _: str) -> None:
    exchange.answer(400, {"error": {"message": "top_k must be even", "type": "BadRequestError", "code": 400}})


def locked(exchange: Exchange, _: str) -> None:
    if exchange.headers.get("Authorization") == f"Bearer {KEY}":
        echo(exchange, "")
    else:
        exchange.answer(401, {"error": {"message": "Invalid key", "code": "invalid_api_key"}})


def old(exchange: Exchange, _: str) -> None:
    """Knows neither `stream_options` nor `max_tokens`."""
    for parameter in ("stream_options", "max_tokens"):
        if parameter in exchange.body:
            message = f"Unsupported parameter: '{parameter}'"
            exchange.answer(400, {"error": {"message": message, "code": "unsupported_parameter"}})
            return
    echo(exchange, "")


def short(exchange: Exchange, argument: str) -> None:
    """Takes so many words of prompt and answer; tells its numbers as vLLM does."""
    limit, words, most = int(argument), exchange.words(), exchange.body["max_tokens"]
    if words + most <= limit:
        exchange.begin()
        exchange.say("fits")
        exchange.end(tokens=1)
        return
    message = (
        f"This model's maximum context length is {limit} tokens. However, you requested {words + most} tokens "
        f"({words} in the messages, {most} in the completion). Please reduce the length of the messages."
    )
    exchange.answer(400, {"error": {"message": message, "type": "BadRequestError", "code": 400}})


def mute(exchange: Exchange, argument: str) -> None:
    """As `short`, but tells no number."""
    if exchange.words() <= int(argument):
        echo(exchange, "")
    else:
        exchange.answer(400, {"error": {"message": "too long", "code": "context_length_exceeded"}})


def in_bytes(exchange: Exchange, _: str) -> None:
    """One byte a segment, lines ended in each of the three ways, comments between."""
    exchange.begin()
    content = json.dumps({"choices": [{"index": 0, "delta": {"content": "北京 😀"}}]}, ensure_ascii=False)
    for ends in ("\r\n", "\n", "\r"):
        for byte in f": hello{ends}event: message{ends}data: {content}{ends}{ends}".encode():
            exchange.write(bytes([byte]))
    exchange.end(tokens=3)


def endless(exchange: Exchange, _: str) -> None:
    exchange.begin()
    while not select.select([exchange.connection], [], [], 0)[0]:
        exchange.say("word " * 100)
    exchange.close_connection = True


def ping_and_say(exchange: Exchange) -> None:
    """Events of nothing, as some gateways send them to keep a connection."""
    exchange.write(b"data:\n\ndata: \n\n")
    exchange.say("Paris")
    exchange.end()


def dripping(exchange: Exchange, _: str) -> None:
    """Always something, never a token."""
    exchange.begin()
    while not select.select([exchange.connection], [], [], 0.02)[0]:
        exchange.write(b": wait\n\n" + event({"content": ""}))
    exchange.close_connection = True


def thinking(exchange: Exchange, _: str) -> None:
    exchange.begin()
    for thought in ("hm", " so", " that"):
        exchange.write(event({"reasoning_content": thought}))
    exchange.say("Paris")
    exchange.end(tokens=4)


def pondering(exchange: Exchange, _: str) -> None:
    """Thinks ten times a second, and never says anything."""
    exchange.begin()
    while not select.select([exchange.connection], [], [], 0.1)[0]:
        exchange.write(event({"reasoning": "hm"}))
        exchange.server.thoughts += 1
    exchange.close_connection = True


BEHAVIOURS: dict[str, Behaviour] = {
    "echo": echo,
    "vllm": echo,
    "small": echo,
    "counting": echo,
    "silent": lambda exchange, _: exchange.stay(),
    "late": say_then(then=Exchange.stay),
    "pinging": say_then(then=ping_and_say),
    "empty": say_then(then=lambda exchange: exchange.end("tool_calls")),
    "dripping": dripping,
    "stall": say_then("one", " two", then=Exchange.stay),
    "reset": say_then("one", " two", then=Exchange.reset),
    "crash": lambda exchange, _: exchange.reset(),
    "crashlater": say_then(then=Exchange.reset),
    "cut": say_then("one", " two", then=lambda exchange: setattr(exchange, "close_connection", True)),
    "over": say_then("one", " two", then=lambda exchange: exchange.write(b"data: [DONE]\n\n")),
    "abort": say_then("one", " two", then=lambda exchange: exchange.end("abort")),
    "length": say_then("one", " two", then=lambda exchange: exchange.end("length", tokens=2)),
    "filtered": say_then("one", " two", then=lambda exchange: exchange.end("content_filter", tokens=2)),
    "nousage": say_then("one", " two", then=Exchange.end),
    "nodone": say_then("one", " two", then=functools.partial(_write_and_stay, content=event({}, "stop"))),
    "page": lambda exchange, _: exchange.begin("text/html"),
    "packed": lambda exchange, _: exchange.begin(Content_Encoding="gzip"),
    "nostream": lambda exchange, _: exchange.answer(200, {"choices": []}),
    "noevents": write_then_stay(b"<html>hello</html>\n\n"),
    "nojson": write_then_stay(b"data: {oops\n\n"),
    "nested": write_then_stay(b"data: " + b"[" * 100_000 + b"\n\n"),
    "wrongtype": write_then_stay(b'data: {"choices": [{"delta": {"content": 7}}]}\n\n'),
    "notext": write_then_stay(b"data: \xff\xfe\n\n"),
    "hugeline": write_then_stay(b"data: " + b"x" * 400_000),
    "hugeevent": write_then_stay((b"data: " + b"x" * 1000 + b"\n") * 400),
    "error": write_then_stay(ERROR),
    "errorlater": say_then("one", then=lambda exchange: exchange.write(b'data: {"error": "CUDA error"}\n\n')),
    "errorbad": write_then_stay(b'data: {"error": {"message": "bad seed", "code": 400}}\n\n'),
    "halves": say_then("a \ud83d", "\ude00 b\ufffd", then=Exchange.end),
    "status": refuse,
    "reject": reject,
    "locked": locked,
    "old": old,
    "short": short,
    "mute": mute,
    "bytes": in_bytes,
    "endless": endless,
    "thinking": thinking,
    "pondering": pondering,
    "errorafter": say_then("one", then=functools.partial(_write_and_stay, content=event({}, "stop") + ERROR)),
    "moved": lambda exchange, _: exchange.answer(302, {}, Location="http://127.0.0.1:1/"),
}


@contextmanager
def model_server() -> Iterator[ModelServer]:
    """A server on a free port, in a thread of this process."""
    with ModelServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def main() -> None:
    with ModelServer() as server:
        print(server.port, flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
