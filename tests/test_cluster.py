"""The cluster that tests and runs are made on: it comes up whole, survives its faults, and leaves nothing behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from prove.cluster import MASTERS, valkey_cluster

LIMIT_S = 30.0
HOLDER = """
import pathlib, sys, time
from prove.cluster import valkey_cluster
with valkey_cluster(pathlib.Path(sys.argv[1])) as cluster:
    print(*(node.pid for node in cluster.nodes), flush=True)
    time.sleep(600)
"""


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_killed_node_stops_its_own_slots_alone_and_comes_back_with_its_data(tmp_path: Path) -> None:
    with valkey_cluster(tmp_path) as cluster:
        names = [f"name-{number}" for number in range(30)]
        owners = {name: cluster.owner(name) for name in names}
        for name, owner in owners.items():
            cluster.ask(owner, "SET", name, "kept")

        with (
            redis.Redis(port=cluster.nodes[0].port, retry=Retry(NoBackoff(), 0)) as stranger,
            pytest.raises(redis.AuthenticationError),
        ):
            stranger.ping()
        victim = owners[names[0]]
        cluster.kill(victim)
        left = [cluster.ask(owner, "GET", name) for name, owner in owners.items() if owner is not victim]
        cluster.start(victim)

        assert len(set(owners.values())) == MASTERS
        assert set(left) == {b"kept"}
        assert [cluster.ask(owner, "GET", name) for name, owner in owners.items()] == [b"kept"] * len(names)


def test_no_node_outlives_the_run_that_started_it(tmp_path: Path) -> None:
    """A run that is killed can end nothing itself."""
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    with holder.stdout:
        pids = [int(pid) for pid in holder.stdout.readline().split()]
        before = [lives(pid) for pid in pids]

        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()

        end = time.monotonic() + LIMIT_S
        while any(map(lives, pids)) and time.monotonic() < end:
            time.sleep(0.05)
        assert before == [True] * MASTERS
        assert not any(map(lives, pids))
