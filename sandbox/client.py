"""How tests and tools talk to a sandbox: a synchronous client of its control routes."""

import base64
from types import TracebackType
from typing import Any, Self

import httpx

Json = dict[str, Any]
Event = dict[str, Any]


class SandboxClient:
    """Speaks to the sandbox at `url`; safe from many threads. Every method raises httpx.HTTPStatusError if refused.

    A message is told by keywords: `conversation`, `sender` (a short name, or a full "$:LWCP_v1:…" id), `staff` (None
    for an outsider), `nick`, `group`, `title`, `msgId`, `createAt` (ms), `redeliveries`, `redeliver_after_s`,
    `connection` (an index, to choose the socket), and `data`: fields of the platform that replace the built ones.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        # No pool limit on purpose: each waiting thread holds one connection.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
        self._http = httpx.Client(base_url=url, timeout=30, limits=limits, trust_env=False)

    def send_text(self, text: str, **message: Any) -> Json:
        """Say something; -> msgId, conversation, pushed, and `seq`, the log's last number before it."""
        return self._post("messages", {"text": text, **message})

    def send_many(self, messages: list[Json]) -> list[Json]:
        """Say many things, pushed in this order."""
        return list(self._post("messages", {"messages": messages})["messages"])

    def picture(self, content: bytes, **message: Any) -> Json:
        """Send a picture."""
        encoded = base64.b64encode(content).decode()
        return self._post("messages", {"kind": "picture", "picture": encoded, **message})

    def callback(self, data: Any, **message: Any) -> Json:
        """Push any `data`, a text or a value that becomes JSON; `topic`, `type` and `headers` may be named."""
        return self._post("messages", {"kind": "raw", "data": data, **message})

    def raw(self, content: str | bytes, connection: int | str = "all") -> int:
        """Push any frame, whatever it holds; -> on how many connections."""
        body = {"text": content} if isinstance(content, str) else {"base64": base64.b64encode(content).decode()}
        return int(self._post("raw", {**body, "connection": connection})["pushed"])

    def system(self, topic: str, connection: int | str = "all") -> None:
        """Push a SYSTEM frame: ping, KEEPALIVE, CONNECTED or REGISTERED."""
        self._post("system", {"topic": topic, "connection": connection})

    def fault(self, fault: str, **details: Any) -> int:
        """Set or do a fault; -> the log's last number then. See `faults.py` and `control.py` for the names."""
        return int(self._post("faults", {"fault": fault, **details})["seq"])

    def answer(self, route: str, answer: str, times: int | None = 1, **details: Any) -> int:
        """Let the next `times` calls of a route (None: all) end with a planned answer."""
        return self.fault("answer", **{"route": route, "as": answer, "times": times, **details})

    def clear_faults(self) -> None:
        """From now on all goes well."""
        self.fault("clear")

    def clear_route_faults(self) -> None:
        """From now on all calls go well; redeliveries and dead connections stay as they are."""
        self.fault("clear_routes")

    def rules(self, **changes: Any) -> Json:
        """Change rules by name (see `rules.py`); -> all rules."""
        self._post("rules", changes)
        return self._get("rules")

    def log(self, since: int = 0, *kinds: str) -> list[Event]:
        """Every event after `since`, oldest first; of these kinds only, if any are named."""
        return self.follow(since, *kinds)[0]

    def follow(self, since: int, *kinds: str) -> tuple[list[Event], int]:
        """As `log`, with the number from which to go on."""
        events: list[Event] = []
        while True:
            page = self._get("log", since=since, kinds=",".join(kinds))
            events += page["events"]
            if page["next"] in (since, page["last"]):
                return events, page["next"]
            since = page["next"]

    def last(self) -> int:
        """The number of the newest event."""
        return int(self._get("log", limit=0)["last"])

    def wait_for_reply(self, conversation: str, after: int = 0, timeout_s: float = 10) -> Event | None:
        """The first answer (finished card, webhook, proactive) shown there after an event; None if none came."""
        query: Json = {"conversation": conversation, "after": after, "timeout_s": timeout_s}
        response = self._http.get("/sandbox/wait", params=query, timeout=timeout_s + 10)
        event: Event | None = response.raise_for_status().json()["event"]
        return event

    def connections(self) -> list[Json]:
        """The connections, in the order of connecting."""
        return list(self._get("connections")["connections"])

    def cards(self) -> list[Json]:
        """All cards as they stand."""
        return list(self._get("cards")["cards"])

    def reset(self) -> int:
        """Forget log, cards, files, sessions and faults; -> the log's last number."""
        return int(self._post("reset", {})["seq"])

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _post(self, route: str, body: Json) -> Json:
        response = self._http.post(f"/sandbox/{route}", json=body)
        answer: Json = response.raise_for_status().json()
        return answer

    def _get(self, route: str, **query: Any) -> Json:
        response = self._http.get(f"/sandbox/{route}", params=query)
        answer: Json = response.raise_for_status().json()
        return answer
