"""The record's connection: scripts by name, repeats within a deadline, foreign errors translated.

redis-py repeats by itself up to ten times by default; that is off. Repeats happen here and nowhere else, and every
script gives the same answer when the same caller repeats it. On a cluster scripts go straight to the node that has
their slot, each node by itself, so that one that does not answer stops nobody but its own conversations.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar, cast

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisClusterException, RedisError, ResponseError, SlotNotCoveredError
from redis.retry import Retry

from app.address import Address, Place, read_address
from app.async_redis import AsyncStore
from app.errors import BadSetting, StoreFull, StoreUnavailable
from app.nodes import (
    AGAIN,
    FIRST_PAUSE_S,
    JUST_NOW_S,
    LONGEST_PAUSE_S,
    NO_CLUSTER,
    SILENT,
    WAIT_SHARE,
    Nodes,
    connection_options,
    given_up,
    read,
    translated,
)
from app.replication import Replication
from app.scripts import Arg, Call, load_all_scripts, load_script

__all__ = ["AsyncStore", "Store"]
_Answer = TypeVar("_Answer")
_MOST_NODES = 64  # are asked at the same time
_SLOW_SHARE = 0.5  # of the time limit of a call: so long a batch waits for its slowest node


class Store:
    """The record, for threads.

    `deadline_s`: how long a call is repeated while the server does not answer. `replicas`: how many of a server's
    replicas must have what a script wrote before its answer counts.
    """

    def __init__(
        self,
        url: str,
        *,
        deadline_s: float = 15.0,
        timeout_s: float = 5.0,
        connections: int = 1024,
        replicas: int = 0,
    ) -> None:
        load_all_scripts()
        self._address = read_address(url)
        self._options = connection_options(timeout_s, connections)
        self._nodes: Nodes[redis.Redis] = Nodes(self._address, self._open)
        self._replication = Replication(replicas, round(timeout_s * 1000 * WAIT_SHARE))
        self._deadline_s = deadline_s
        self._slow_s = timeout_s * _SLOW_SHARE
        self._lock, self._looking = threading.Lock(), threading.Lock()
        self._whole: redis.Redis | None = None
        self._asking: dict[Place | None, Future[list[Any]]] = {}  # of `pipelined`: nodes that have not answered yet
        self._threads = ThreadPoolExecutor(_MOST_NODES, "record") if self._address.is_cluster else None

    @property
    def waits_for_replicas(self) -> bool:
        """Whether what a script did may be undone in its caller's eyes, because too few replicas have it."""
        return self._replication.replicas > 0

    @property
    def client(self) -> "redis.Redis":
        """redis-py's own client of the whole record, for tools. On a cluster it needs every node: see `at` instead."""
        if not self._address.is_cluster:
            return self._nodes.client(None)
        with self._lock:
            if self._whole is None:
                self._whole = cast("redis.Redis", _cluster_client(self._address, self._options))
            return self._whole

    def run(self, name: str, keys: Sequence[str], args: Sequence[Arg], *, patient: bool = True) -> Any:
        """Run a script, again and again until it answers.

        Not `patient`: while a node of a cluster is known to be silent it is asked once a second by one caller, and the
        others are told so at once. Threads that waited for it would be missing everywhere else.

        Raises:
            StoreUnavailable: it did not answer by the deadline; it may have run all the same.
            StoreFull: it refused, and that at once for want of memory. Only what makes the record grow is refused.
        """
        call = Call(load_script(name), keys, args)

        def once() -> Any:
            place = self._place_of(call.keys[0])
            if not patient and self._nodes.is_hopeless(place):
                raise StoreUnavailable(f"{_named(place)} does not answer")
            return read(self._send(place, [call])[0])

        return self.repeat(once)

    def at(self, key: str, call: Callable[["redis.Redis"], _Answer]) -> _Answer:
        """Plain commands to the one server that has a key, again and again until it answers; they may be repeated.

        Raises:
            StoreUnavailable: it did not answer by the deadline.
        """
        return self.repeat(lambda: self._at(key, call))

    def at_once(self, key: str, call: Callable[["redis.Redis"], _Answer]) -> _Answer:
        """As `at`, but not repeated: for who can do without an answer."""
        try:
            return self._at(key, call)
        except (RedisError, RedisClusterException) as exc:
            raise given_up(translated(exc)) from exc

    def run_once(self, name: str, keys: Sequence[str], args: Sequence[Arg]) -> Any:
        """Run a script that counts, each time it runs.

        Raises:
            StoreUnavailable: it did not answer; it may have run all the same.
        """
        call = Call(load_script(name), keys, args)
        try:
            return read(self._send(self._place_of(call.keys[0]), [call])[0])
        except (RedisError, RedisClusterException) as exc:
            raise given_up(translated(exc)) from exc

    def repeat(self, call: Callable[[], _Answer]) -> _Answer:
        """Call until the server answers, to the deadline. The call must be one that may be repeated."""
        end, pause = time.monotonic() + self._deadline_s, FIRST_PAUSE_S
        while True:
            try:
                return call()
            except (RedisError, RedisClusterException) as exc:
                found = translated(exc)
                if isinstance(found, StoreFull):
                    raise found from exc
                if not isinstance(found, AGAIN):
                    raise
                if time.monotonic() + pause > end:
                    raise given_up(found) from exc
            time.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_S)

    def pipelined(self, name: str, calls: Sequence[tuple[Sequence[str], Sequence[Arg]]]) -> list[Any]:
        """One script for many keys, one round trip a server, all servers at the same time. Not repeated.

        For one thread: a server that still owes an answer from the time before is not asked.

        Returns:
            The answers in the same order; None where a server of a cluster did not answer, or not soon.

        Raises:
            StoreUnavailable: nobody answered; some may have run.
        """
        script = load_script(name)
        all_calls = [Call(script, keys, args) for keys, args in calls]
        try:
            batches = self._batches(all_calls)
        except (RedisError, RedisClusterException) as exc:
            raise StoreUnavailable(str(exc)) from exc
        answers: list[Any] = [None] * len(all_calls)
        failure: Exception | None = None
        for places, outcome in self._gather(all_calls, batches):
            for number, answer in zip(places, outcome, strict=True):
                failed = isinstance(answer, Exception)
                answers[number], failure = (None, answer) if failed else (answer, failure)
        if all(answer is None for answer in answers):
            raise StoreUnavailable(str(failure or "no node has these slots")) from failure
        return answers

    def is_lone_node(self) -> bool:
        """Whether one node of a cluster was taken for the whole record. Raises StoreUnavailable."""
        if self._address.is_cluster:
            return False
        return bool(self.repeat(lambda: self._nodes.client(None).info("cluster")).get("cluster_enabled"))

    def silent(self) -> list[str]:
        """The servers of the record that do not serve, as host:port; `record` for the only one."""
        try:
            self._look()
        except (RedisError, RedisClusterException):
            return ["record"]
        return [_named(place) for place in self._nodes.places() if not self._serves(place)]

    def server_of(self, key: str) -> "redis.Redis":
        """A client of the one server that has a key. Raises StoreUnavailable."""
        return self._nodes.client(self.repeat(lambda: self._place_of(key)))

    def one_a_server(self, keys: Sequence[str]) -> list[str]:
        """Of these keys one for each server that has some. Raises StoreUnavailable."""
        return list({self.repeat(lambda key=key: self._place_of(key)): key for key in keys}.values())  # type: ignore[misc]

    def servers(self) -> list["redis.Redis"]:
        """A client for each server that has a part of the record. Raises StoreUnavailable."""
        self.repeat(self._look)
        return [self._nodes.client(place) for place in self._nodes.places()]

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
        for client in self._nodes.clients():
            client.close()
        if self._whole is not None:
            self._whole.close()

    def _open(self, url: str) -> "redis.Redis":
        return redis.Redis.from_url(url, **self._options, retry=Retry(NoBackoff(), 0))

    def _at(self, key: str, call: Callable[["redis.Redis"], _Answer]) -> _Answer:
        place = self._place_of(key)
        try:
            answer = call(self._nodes.client(place))
        except RedisError as exc:
            self._nodes.note(place, exc)
            raise
        self._nodes.note(place, answer)
        return answer

    def _place_of(self, key: str) -> Place | None:
        if self._nodes.looks(key):
            self._look()
        return self._nodes.place_of(key)

    def _look(self) -> None:
        """Learn which node has which slot, from the first that says it; who comes meanwhile learns it too."""
        came_at = time.monotonic()
        with self._looking:
            if not self._nodes.is_cluster or self._nodes.learned_at > came_at:
                return
            failure: Exception | None = None
            for place in self._nodes.to_ask():
                try:
                    answer = self._nodes.client(place).execute_command("CLUSTER SLOTS")  # type: ignore[no-untyped-call]
                except SILENT as exc:
                    self._nodes.note(place, exc)
                    failure = exc
                except ResponseError as exc:
                    raise BadSetting(NO_CLUSTER) from exc
                else:
                    self._nodes.learn(place, answer)
                    return
            raise RedisConnectionError("no node of the cluster answers") from failure

    def _serves(self, place: Place | None) -> bool:
        if self._nodes.failed_within(place, JUST_NOW_S):
            return False
        client = self._nodes.client(place)
        try:
            if not self._address.is_cluster:
                return bool(client.ping())
            state = client.execute_command("CLUSTER INFO")  # type: ignore[no-untyped-call]
            return bool(state["cluster_state"] == "ok")
        except RedisError:
            return False

    def _batches(self, calls: Sequence[Call]) -> dict[Place | None, list[int]]:
        """The numbers of the calls by where they go. A slot that nobody has is nobody's: its calls go nowhere."""
        batches: dict[Place | None, list[int]] = {}
        for number, call in enumerate(calls):
            with contextlib.suppress(SlotNotCoveredError):
                batches.setdefault(self._place_of(call.keys[0]), []).append(number)
        return batches

    def _gather(
        self, calls: Sequence[Call], batches: dict[Place | None, list[int]]
    ) -> Iterable[tuple[list[int], list[Any]]]:
        """Send each server its batch; (numbers of the calls, answers), an exception for each that has none."""
        if self._threads is None:
            for place, numbers in batches.items():
                yield numbers, self._sent(place, [calls[number] for number in numbers])
            return
        started = {}
        for place, numbers in batches.items():
            if (asked := self._asking.get(place)) is None or asked.done():  # who still has not answered is let be
                batch = [calls[number] for number in numbers]
                started[place] = self._asking[place] = self._threads.submit(self._sent, place, batch)
        wait(started.values(), self._slow_s)
        for place, numbers in batches.items():
            late = place not in started or not started[place].done()
            none = [RedisConnectionError(f"{_named(place)} does not answer")] * len(numbers)
            yield numbers, none if late else started[place].result()

    def _sent(self, place: Place | None, calls: Sequence[Call]) -> list[Any]:
        """As _send, but nothing is raised: what the server did not answer is an exception in its place."""
        try:
            return self._send(place, calls)
        except RedisError as exc:
            return [exc] * len(calls)

    def _send(self, place: Place | None, calls: Sequence[Call]) -> list[Any]:
        """Run calls on one server in one round trip; the answers, an exception where a call was refused."""
        client = self._nodes.client(place)
        try:
            answers = self._pipeline(client, calls)
            unknown = [number for number, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
            for text in {calls[number].script.text for number in unknown}:
                client.script_load(text)
            again = self._pipeline(client, [calls[number] for number in unknown]) if unknown else []
        except RedisError as exc:
            self._nodes.note(place, exc)
            raise
        for number, answer in zip(unknown, again, strict=True):
            answers[number] = answer
        for answer in answers:
            self._nodes.note(place, answer)
        return answers

    def _pipeline(self, client: "redis.Redis", calls: Sequence[Call]) -> list[Any]:
        pipeline = client.pipeline(transaction=False)
        for command in self._replication.commands(calls):
            pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
        return self._replication.settled(calls, pipeline.execute(raise_on_error=False))


def _cluster_client(address: Address, options: dict[str, Any]) -> RedisCluster:
    """redis-py's own client of a whole cluster: it asks the cluster before it is there, and so may raise."""
    first, *others = address.places
    try:
        return RedisCluster(
            url=address.url_of(first),
            startup_nodes=[ClusterNode(*place) for place in others],  # type: ignore[no-untyped-call]
            retry=Retry(NoBackoff(), 0),
            require_full_coverage=False,
            **options,
        )
    except IndexError as exc:
        raise RedisConnectionError("the cluster has no slots yet") from exc


def _named(place: Place | None) -> str:
    return f"{place[0]}:{place[1]}" if place else "record"
