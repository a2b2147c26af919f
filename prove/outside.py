"""The record and the broker of a run: the embedded ones, or servers of its own beside the installation."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from app.servers import last_known
from prove.cluster import Cluster, valkey_cluster
from prove.installation import RunFailed
from prove.plan import Plan
from prove.rabbitmq import RabbitMQ, rabbitmq


@dataclass(frozen=True, slots=True)
class Outside:
    """A server that the supervisor does not know: whoever kills it starts it again."""

    pid: Callable[[], int]
    kill_and_start: Callable[[], float]  # seconds from the start to ready


@dataclass(slots=True)
class Servers:
    """Where the record and the broker are."""

    data_dir: Path
    settings: dict[str, str] = field(default_factory=dict)
    _outside: dict[str, Outside] = field(default_factory=dict)
    _urls: dict[str, str] = field(default_factory=dict)

    def outside(self, role: str) -> Outside | None:
        """The server of a role, `redis` or `broker`, if it is not the embedded one."""
        return self._outside.get(role)

    @property
    def record_url(self) -> str:
        return self._url("redis")

    @property
    def broker_url(self) -> str:
        return self._url("broker")

    def add(self, role: str, url: str, server: Outside) -> None:
        """Have the installation use this server."""
        self._outside[role], self._urls[role] = server, url
        self.settings[f"SWITCHYARD_{role.upper()}_URL"] = url

    def _url(self, role: str) -> str:
        if role in self._urls:
            return self._urls[role]
        server = last_known("redis" if role == "redis" else "broker", self.data_dir)
        if server is None:
            raise RunFailed(f"the installation has no {role}")
        return server.url.get_secret_value()


@contextmanager
def servers_of(plan: Plan, folder: Path) -> Iterator[Servers]:
    """Start what the plan wants beside the installation.

    Raises:
        RunFailed: it did not start.
        RabbitFailed: RabbitMQ is not installed or did not start; the text names the mend.
    """
    servers = Servers(folder / "data")
    with ExitStack() as stack:
        if plan.record == "cluster":
            cluster = stack.enter_context(valkey_cluster(folder / "cluster"))
            servers.add("redis", cluster.url, of_cluster(cluster, random.Random(plan.seed)))
        if plan.broker == "rabbitmq":
            node = stack.enter_context(rabbitmq(folder / "rabbitmq"))
            servers.add("broker", node.url, of_rabbitmq(node))
        yield servers


def of_rabbitmq(node: RabbitMQ) -> Outside:
    settled: list[bool] = []

    def kill_and_start() -> float:
        if not settled:
            node.settle()  # its own weakness right after a first start, not ours
            settled.append(True)
        node.kill()
        return _took(node.start)

    return Outside(lambda: node.pid, kill_and_start)


def of_cluster(cluster: Cluster, chance: random.Random) -> Outside:
    """Any of its nodes."""

    def pid() -> int:
        found = chance.choice(cluster.masters()).pid
        if found is None:
            raise RunFailed("a node of the cluster is gone")
        return found

    def kill_and_start() -> float:
        node = chance.choice(cluster.masters())
        cluster.kill(node)
        return _took(lambda: cluster.start(node))

    return Outside(pid, kill_and_start)


def _took(start: Callable[[], None]) -> float:
    began = time.monotonic()
    start()
    return round(time.monotonic() - began, 2)
