"""With SWITCHYARD_REPLICAS_ACK an answer counts when a replica has the write, so a failover loses nothing."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from app import keys
from app.acceptance import Limits, Outcome, acceptance, read_accepted
from app.errors import StoreUnavailable
from app.mailbox import Lease, Mailbox
from app.message import Message
from app.redis import AsyncStore, Store
from prove.cluster import MASTERS, Cluster, Node, valkey_cluster
from tests.samples import a_message, a_reply, notices

LIMIT_S = 60.0
PEOPLE = [a_message(f"dingtalk:bot:{number}", sender=f"$:p{number}==") for number in range(40)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder: Path = tmp_path_factory.mktemp("replicas")
    with valkey_cluster(folder, replicas=1, node_timeout_ms=1000) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def valkey_url(cluster: Cluster) -> str:
    return cluster.url


@pytest.fixture
def replicas(cluster: Cluster) -> list[Node]:
    masters = cluster.masters()
    return [node for node in cluster.nodes if node not in masters]


@pytest.fixture
def asleep(cluster: Cluster, replicas: list[Node]) -> Iterator[None]:
    """No replica takes anything."""
    for node in replicas:
        cluster.freeze(node)
    yield
    for node in replicas:
        cluster.thaw(node)


def stored(store: Store, message: Message) -> bool:
    name = keys.seen(message.conversation, message.id)
    return bool(store.server_of(name).exists(name))  # a cluster's client would ask the sleepers too


def accept(inbox: Mailbox, message: Message) -> Outcome:
    return inbox.accept(message, "text", notices=notices(message)).outcome


@pytest.mark.usefixtures("asleep")
def test_what_no_replica_has_was_not_accepted(store: Store, valkey_url: str) -> None:
    """Neither when it comes again: the second call writes nothing, and must not be answered by that."""
    message = a_message("dingtalk:bot:unreplicated")
    for _ in range(2):
        with (
            closing(Store(valkey_url, deadline_s=0.5, timeout_s=0.5, replicas=1)) as careful,
            pytest.raises(StoreUnavailable, match="replicas"),
        ):
            accept(Mailbox(careful, "inbox", Limits()), message)

    assert stored(store, message)
    assert accept(Mailbox(store, "inbox", Limits()), message) is Outcome.REPEAT  # who does not ask for it has it


@pytest.mark.usefixtures("asleep")
async def test_a_frame_is_stored_when_a_replica_has_it(store: Store, valkey_url: str) -> None:
    message = a_message("dingtalk:bot:frame")
    careful = AsyncStore(valkey_url, deadline_s=0.5, timeout_s=0.5, replicas=1)
    names, args = acceptance("inbox", message, "text", limits=Limits(), room=100, notices=notices(message))

    with pytest.raises(StoreUnavailable, match="replicas"):
        await careful.run("accept", names, args)

    await careful.close()
    assert stored(store, message)


@pytest.mark.usefixtures("asleep")
def test_nobody_is_blamed_for_a_lease_that_no_replica_has(store: Store, valkey_url: str) -> None:
    """Its worker is told that it has nothing; five such leases would make an innocent message a dead letter."""
    message = a_message("dingtalk:bot:untaken", sender="$:untaken==")
    inbox = Mailbox(store, "inbox", Limits(lease_s=0.05))
    accept(inbox, message)

    for _ in range(3):
        with (
            closing(Store(valkey_url, deadline_s=0.5, timeout_s=0.5, replicas=1)) as careful,
            pytest.raises(StoreUnavailable),
        ):
            Mailbox(careful, "inbox", Limits(lease_s=0.05)).lease(message.conversation, "text")
        time.sleep(0.1)  # longer than the lease

    held = inbox.lease(message.conversation, "text")
    assert isinstance(held, Lease)
    assert held.vanished == 0


def test_a_whole_answer_with_replicas(store: Store, valkey_url: str) -> None:
    """The same answers as without, also from a node that knows no script yet."""
    store.client.script_flush()
    with closing(Store(valkey_url, replicas=1)) as careful:
        inbox = Mailbox(careful, "inbox", Limits())
        message = a_message("dingtalk:bot:whole")

        outcome, held = accept(inbox, message), inbox.lease(message.conversation, "text")
        assert isinstance(held, Lease)
        inbox.mark(held, "half")
        done = inbox.commit(held, reply=a_reply(message))

    assert (outcome, done.send, inbox.waiting()) == (Outcome.WAKE, "send", 0)


async def test_a_failover_loses_nothing_that_a_replica_has(cluster: Cluster, store: Store, valkey_url: str) -> None:
    """The master dies in the middle of a rush; every message is stored in the end, and each has its place once.

    The promoted one has no replica until the dead one comes back as one: until then it stores nothing.
    """
    victim = cluster.owner(keys.token(keys.shard_of(PEOPLE[0].conversation)))
    record = AsyncStore(valkey_url, deadline_s=LIMIT_S, timeout_s=2.0, replicas=1)

    async def frame(message: Message) -> Outcome:
        names, args = acceptance("inbox", message, "text", limits=Limits(), room=100, notices=notices(message))
        return read_accepted(await record.run("accept", names, args)).outcome

    first = await asyncio.gather(*(frame(message) for message in PEOPLE[:20]))
    rush = [asyncio.create_task(frame(message)) for message in PEOPLE[20:]]
    cluster.kill(victim)
    cluster.until(lambda: len(cluster.masters()) == MASTERS, "its replica is promoted", LIMIT_S)
    cluster.start(victim)
    outcomes = await asyncio.gather(*rush)
    await record.close()

    inbox = Mailbox(store, "inbox", Limits())
    assert set(first) == {Outcome.WAKE}
    assert set(outcomes) <= {Outcome.WAKE, Outcome.REPEAT}
    assert inbox.waiting() == len(PEOPLE)
    assert {accept(inbox, message) for message in PEOPLE} == {Outcome.REPEAT}
    assert victim not in cluster.masters()
