"""A whole installation whose record is a cluster: one of three nodes is killed under load and comes back."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from prove.cluster import Cluster, valkey_cluster
from prove.installation import Installation, installation
from prove.plan import Plan
from sandbox.client import SandboxClient
from sandbox.process import Sandbox
from tests.failure.test_path import answered, said, say, wait_for

pytestmark = [pytest.mark.failure, pytest.mark.timeout(240)]
PEOPLE, ROUNDS, KILL_AFTER = 12, 3, 0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder: Path = tmp_path_factory.mktemp("cluster")
    with valkey_cluster(folder) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def house(cluster: Cluster, sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    settings = {**Plan().environment(), "SWITCHYARD_REDIS_URL": cluster.url, "SWITCHYARD_LOCALE": "en"}
    settings |= {"SWITCHYARD_POOLS": "text=1,image=0,default=1,sender=1", "SWITCHYARD_ECHO_TOKENS_PER_S": "10"}
    settings["SWITCHYARD_LEASE_S"] = "10"  # as in daily life: a node that answers late is not dead
    with installation(tmp_path_factory.mktemp("house"), sandbox, settings) as house:
        yield house


def readiness(house: Installation) -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{house.web_port}/readyz", timeout=10)


def test_a_node_that_is_killed_under_load_costs_nobody_an_answer(
    house: Installation, people: SandboxClient, cluster: Cluster
) -> None:
    """Its conversations wait until it is back; all others go on; everybody is answered once and in order."""
    wait_for(lambda: readiness(house).status_code == 200)
    victim, sent = cluster.nodes[0], []

    for number in range(ROUNDS):
        sent += say(people, [said(f"c{index}", number, "says that things go on") for index in range(PEOPLE)])
        if number == KILL_AFTER:
            time.sleep(0.3)  # answers of a second are being written
            cluster.kill(victim)
            unready = wait_for(lambda: (now := readiness(house)).status_code == 503 and now)
            before = people.last()
    wait_for(lambda: any(event["kind"] == "finished" for event in people.log(before)))
    cluster.start(victim)
    verdict = answered(people, sent)

    assert unready.json()["missing"] == ["record: does not answer"]
    assert (verdict.accepted, verdict.answered) == (PEOPLE * ROUNDS, PEOPLE * ROUNDS)
    assert verdict.holds(), verdict
    wait_for(lambda: readiness(house).status_code == 200)
