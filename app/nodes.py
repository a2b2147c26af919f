"""The servers of the record, and on a cluster which of them has which slot.

This is what a process knows, and it may be old: a node that no longer has a slot says MOVED, and the call is repeated
where it was told. No request is made here.
"""

import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    ClusterError,
    MovedError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    SlotNotCoveredError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from app.address import Address, Place
from app.errors import StoreFull, StoreUnavailable

SILENT = (RedisConnectionError, RedisTimeoutError)
# Nothing is decided by these: the same call is repeated. While a slot moves, its old node says ASK and its new one
# TRYAGAIN to a script whose keys are not all there yet; following ASK would run into that.
AGAIN = (*SILENT, BusyLoadingError, ReadOnlyError, AskError, TryAgainError, ClusterError)
_REFUSALS = ("MISCONF", "LOADING", "READONLY", "NOREPLICAS", "CLUSTERDOWN")
_MISPLACED = (*SILENT, ReadOnlyError, ClusterDownError)  # perhaps somebody else has the slot now
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 0.5  # between two tries of a call
WAIT_SHARE = 0.5  # of the time limit of a call: so long replicas are waited for
NO_CLUSTER = "SWITCHYARD_REDIS_URL: this server is no cluster; write redis://host:port"
JUST_NOW_S = 1.0
_LOOK_AGAIN_S = 0.1
_SAID_NOTHING = (b"", "", "?", b"?", None)  # a node that does not know its own name: it is where it was asked

_Client = TypeVar("_Client")


class Nodes(Generic[_Client]):
    """The clients of all servers. `place` None: the only server there is."""

    def __init__(self, address: Address, open_client: Callable[[str], _Client]) -> None:
        self.is_cluster = address.is_cluster
        self._address = address
        self._open = open_client
        self._clients: dict[Place | None, _Client] = {}
        self._owners: dict[int, Place] = {}
        self._failed_at: dict[Place | None, float] = {}
        self._stale = False
        self._looked_at = self.learned_at = float("-inf")
        self._lock = threading.Lock()

    def client(self, place: Place | None) -> _Client:
        with self._lock:
            if place not in self._clients:
                self._clients[place] = self._open(self._address.url_of(place) if place else self._address.url)
            return self._clients[place]

    def clients(self) -> list[_Client]:
        """All that were opened."""
        with self._lock:
            return list(self._clients.values())

    def place_of(self, key: str) -> Place | None:
        """Where a key is. Raises SlotNotCoveredError if nobody is known to have it."""
        if not self.is_cluster:
            return None
        slot = key_slot(key.encode())
        try:
            return self._owners[slot]
        except KeyError:
            raise SlotNotCoveredError(f"no node is known to have slot {slot}") from None

    def places(self) -> list[Place | None]:
        """All servers that have a part of the record."""
        return list(dict.fromkeys(self._owners.values())) if self.is_cluster else [None]

    def looks(self, key: str) -> bool:
        """Whether to ask for the slots before the next call for this key; one caller at a time, and not too often."""
        if not self.is_cluster:
            return False
        with self._lock:
            unknown = key_slot(key.encode()) not in self._owners
            wanted = self._stale or unknown
            if not wanted or time.monotonic() - self._looked_at < _LOOK_AGAIN_S:
                return unknown
            self._looked_at, self._stale = time.monotonic(), False
            return True

    def to_ask(self) -> list[Place]:
        """Whom to ask who has which slot: those who failed last come last, for they may not answer soon."""
        known = list(dict.fromkeys([*self._owners.values(), *self._address.places]))
        random.shuffle(known)
        return sorted(known, key=lambda place: self._failed_at.get(place, 0.0))

    def learn(self, asked: Place, answer: Iterable[Sequence[Any]]) -> None:
        """Take over an answer to CLUSTER SLOTS: first slot, last slot, master [host, port, ...], replicas."""
        owners: dict[int, Place] = {}
        for first, last, master, *_ in answer:
            place = (_host(master[0], asked), int(master[1]))
            owners.update(dict.fromkeys(range(int(first), int(last) + 1), place))
        if owners:  # a node that was forgotten by the others knows nobody
            self._owners, self.learned_at = owners, time.monotonic()

    def note(self, place: Place | None, outcome: object) -> None:
        """Hear how a call ended: its answer, or the error that it had."""
        if isinstance(outcome, MovedError):
            self._owners = {**self._owners, outcome.slot_id: (_host(outcome.host, place), int(outcome.port))}
            self._stale = True
        elif isinstance(outcome, _MISPLACED):
            self._failed_at[place] = time.monotonic()
            self._stale = True
        elif place in self._failed_at and not isinstance(outcome, BaseException):
            self._failed_at.pop(place, None)

    def is_hopeless(self, place: Place | None) -> bool:
        """Whether a node of a cluster has just failed. Once a second somebody may try it all the same."""
        with self._lock:
            failed_at = self._failed_at.get(place) if self.is_cluster else None
            if failed_at is None:
                return False
            if time.monotonic() - failed_at < JUST_NOW_S:
                return True
            self._failed_at[place] = time.monotonic()
            return False

    def failed_within(self, place: Place | None, seconds: float) -> bool:
        """Whether the last that was heard of a server is a failure, not longer ago than this."""
        return time.monotonic() - self._failed_at.get(place, float("-inf")) < seconds


def translated(exc: Exception) -> Exception:
    """A disk that the record cannot write is no bug of ours: it says so even to a PING, and may take it later.

    A full memory is told at once: nothing that is waited for here makes room. redis-py's cluster client has errors
    beside its own tree: those about the cluster's state are the same.
    """
    if isinstance(exc, AGAIN):
        return exc
    if isinstance(exc, OutOfMemoryError):
        return StoreFull("memory", "the record's memory is full")
    refused = isinstance(exc, ResponseError) and str(exc).startswith(_REFUSALS)
    lost = isinstance(exc, SlotNotCoveredError) or (
        isinstance(exc, RedisClusterException) and isinstance(exc.__cause__, RedisError | OSError)
    )
    return RedisConnectionError(str(exc)) if refused or lost else exc


def given_up(exc: Exception) -> StoreUnavailable:
    """The server did not answer in time, or it cannot write its disk."""
    return StoreFull("disk", str(exc)) if str(exc).startswith("MISCONF") else StoreUnavailable(str(exc))


def read(answer: Any) -> Any:
    """An answer out of a batch. Raises what the server answered instead."""
    if isinstance(answer, Exception):
        raise answer
    return answer


def connection_options(timeout_s: float, connections: int) -> dict[str, Any]:
    """What every connection to the record is opened with."""
    return {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": min(timeout_s, 2.0),
        "socket_keepalive": True,
        "health_check_interval": 25,
        "max_connections": connections,
    }


def _host(said: Any, asked: Place | None) -> str:
    if said in _SAID_NOTHING and asked is not None:
        return asked[0]
    return str(said.decode() if isinstance(said, bytes) else said)
