"""A platform's gateway that does nothing but push and count: so the pushing side is never what is measured.

`python -m benchmarks.gateway` prints its address as one JSON line, then reads one JSON order a line on standard input
and answers each with one JSON line. Frames are rendered before the clock starts and acks are read after it stopped.
It ends with its standard input.
"""

import asyncio
import itertools
import json
import sys
import threading
import time
from collections.abc import Sequence

import msgspec
import uvloop
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

TOPIC = "/v1.0/im/bot/messages/get"
ROBOT = "dingbenchmark"
ACK_LIMIT_S = 120.0


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Push so many frames: at most `window` of them unacknowledged, or `per_s` of them a second whatever comes back."""

    frames: int
    connections: int  # wait for so many first
    window: int = 256
    per_s: float = 0.0


class Pushed(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an order; times by the clock that all processes of this machine share, in seconds."""

    first_push_s: float
    last_ack_s: float
    frame_to_ack_ms: list[float]


def frame(number: str) -> str:
    """A robot callback of a conversation that nobody else uses."""
    now_ms = int(time.time() * 1000)
    data = {
        "conversationId": f"cid-{number}=",
        "conversationType": "1",
        "chatbotUserId": "$:LWCP_v1:$robot",
        "robotCode": ROBOT,
        "msgId": f"msg{number}==",
        "senderNick": "Ann",
        "senderId": f"$:LWCP_v1:${number}",
        "senderStaffId": f"staff{number}",
        "sessionWebhook": f"http://127.0.0.1:9/robot/sendBySession?session={number}",
        "sessionWebhookExpiredTime": now_ms + 5_400_000,
        "createAt": now_ms,
        "msgtype": "text",
        "text": {"content": "please tell me how the trains run today"},
    }
    headers = {"contentType": "application/json", "messageId": number, "time": str(now_ms), "topic": TOPIC}
    return _text({"specVersion": "1.0", "type": "CALLBACK", "headers": headers, "data": _text(data)})


class Gateway:
    """Takes connections, pushes to all of them in turn, and notes when acks come."""

    def __init__(self) -> None:
        self._connections: list[ServerConnection] = []
        self._changed = asyncio.Condition()
        self._runs = itertools.count(1)
        self._pushed_at: dict[str, float] = {}
        self._acks: list[tuple[float, str | bytes]] = []
        self._came = asyncio.Event()

    async def hold(self, connection: ServerConnection) -> None:
        """Read one connection's acks until it ends."""
        await self._change(connection, joins=True)
        try:
            async for ack in connection:
                self._acks.append((time.monotonic(), ack))
                self._came.set()
        except ConnectionClosed:
            pass
        finally:
            await self._change(connection, joins=False)

    async def obey(self, order: Order) -> Pushed:
        """Push and wait for all acks. Raises TimeoutError if they do not come."""
        run = next(self._runs)
        frames = {f"r{run}n{number}": frame(f"r{run}n{number}") for number in range(order.frames)}
        self._pushed_at, self._acks = {}, []
        async with asyncio.timeout(ACK_LIMIT_S):
            async with self._changed:
                await self._changed.wait_for(lambda: len(self._connections) >= order.connections)
            await (self._steadily(frames, order.per_s) if order.per_s else self._at_once(frames, order.window))
            await self._until_acked(order.frames)
        return self._result()

    async def _at_once(self, frames: dict[str, str], window: int) -> None:
        for pushed, (number, text) in enumerate(frames.items()):
            await self._until_acked(pushed + 1 - window)
            await self._push(pushed, number, text)

    async def _steadily(self, frames: dict[str, str], per_s: float) -> None:
        start = time.monotonic()
        for pushed, (number, text) in enumerate(frames.items()):
            await asyncio.sleep(max(0.0, start + pushed / per_s - time.monotonic()))
            await self._push(pushed, number, text)

    async def _push(self, place: int, number: str, text: str) -> None:
        self._pushed_at[number] = time.monotonic()
        await self._connections[place % len(self._connections)].send(text)

    async def _until_acked(self, count: int) -> None:
        while len(self._acks) < count:
            self._came.clear()
            await self._came.wait()

    def _result(self) -> Pushed:
        """Read the acks: each must be a yes to a frame that was pushed, and each frame must have one."""
        times: dict[str, float] = {}
        for at, raw in self._acks:
            ack = json.loads(raw)
            if ack["code"] == 200:
                times.setdefault(ack["headers"]["messageId"], at)
        took = [(times[number] - at) * 1000 for number, at in self._pushed_at.items()]
        first, last = min(self._pushed_at.values()), max(times.values())
        return Pushed(first_push_s=first, last_ack_s=last, frame_to_ack_ms=took)

    async def _change(self, connection: ServerConnection, *, joins: bool) -> None:
        async with self._changed:
            (self._connections.append if joins else self._connections.remove)(connection)
            self._changed.notify_all()


async def hand_out_tickets(endpoint: str) -> asyncio.Server:
    """The HTTP route on which a client asks where to connect; every client gets a ticket."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = next((line.split(":")[1] for line in head.split("\r\n") if line.startswith("content-length:")), "0")
        await reader.readexactly(int(length))
        body = _text({"endpoint": endpoint, "ticket": "t"}).encode()
        kind = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
        writer.write(kind + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    return await asyncio.start_server(answer, "127.0.0.1", 0)


async def main() -> None:
    """Serve until standard input ends."""
    gateway = Gateway()
    async with serve(gateway.hold, "127.0.0.1", 0, compression=None, ping_interval=None) as sockets:
        tickets = await hand_out_tickets(f"ws://127.0.0.1:{_port(sockets)}/connect")
        async with tickets:
            print(json.dumps({"url": f"http://127.0.0.1:{_port(tickets)}"}), flush=True)
            orders = _lines_of_stdin(asyncio.get_running_loop())
            while line := await orders.get():
                result = await gateway.obey(msgspec.json.decode(line, type=Order))
                print(_text(result), flush=True)


def _lines_of_stdin(loop: asyncio.AbstractEventLoop) -> asyncio.Queue[str]:
    """Its lines, then an empty text."""
    lines: asyncio.Queue[str] = asyncio.Queue()

    def read() -> None:
        for line in itertools.chain(sys.stdin, [""]):
            loop.call_soon_threadsafe(lines.put_nowait, line)

    threading.Thread(target=read, daemon=True).start()
    return lines


def _port(server: Server | asyncio.Server) -> int:
    sockets: Sequence[object] = tuple(server.sockets)
    return int(sockets[0].getsockname()[1])  # type: ignore[attr-defined]


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode()


if __name__ == "__main__":
    uvloop.run(main())
