"""A node of a cluster that is dead, asleep or new stops its own conversations, and no others."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr

from app import doctor, keys
from app.acceptance import Limits, acceptance
from app.context import recall
from app.errors import BadSetting, StoreUnavailable
from app.installation import check_record
from app.mailbox import Lease, Mailbox
from app.message import Message
from app.redis import AsyncStore, Store
from app.routing import Dispatcher
from app.settings import Settings
from app.status import report
from app.sweeper import Sweeper
from app.web import readiness
from prove.cluster import SLOTS, Cluster, Node
from tests.app.supervised import eventually
from tests.conftest import Boxes
from tests.samples import a_message, notices
from tests.valkey import valkey

LIMIT_S = 30.0
PEOPLE = [a_message(f"dingtalk:bot:{number}", sender=f"$:p{number}==") for number in range(24)]


def owner(cluster: Cluster, message: Message) -> Node:
    return cluster.owner(keys.token(keys.shard_of(message.conversation)))


def split(cluster: Cluster, of: Node) -> tuple[list[Message], list[Message]]:
    """What a node has, and what the others have."""
    has = {message.id: owner(cluster, message) is of for message in PEOPLE}
    return [one for one in PEOPLE if has[one.id]], [one for one in PEOPLE if not has[one.id]]


def accept_all(inbox: Mailbox, messages: list[Message]) -> list[Lease]:
    for message in messages:
        inbox.accept(message, "text", notices=notices(message))
    held = [inbox.lease(message.conversation, "text") for message in messages]
    return [one for one in held if isinstance(one, Lease)]


@pytest.fixture
def node(cluster: Cluster) -> Node:
    """The one that holds what belongs to no shard: the sweeper's own lease."""
    return cluster.owner(keys.SWEEPER)


@contextmanager
def asleep(cluster: Cluster, node: Node) -> Iterator[None]:
    """The node takes connections and answers nobody; afterwards all serve again."""
    cluster.freeze(node)
    try:
        yield
    finally:
        cluster.thaw(node)
        for one in cluster.nodes:
            cluster.until(lambda one=one: all_ok(cluster, one), "all serve again", LIMIT_S)  # type: ignore[misc]


@contextmanager
def killed(cluster: Cluster, node: Node) -> Iterator[None]:
    """The node is gone; afterwards it is started again and all serve."""
    cluster.kill(node)
    try:
        yield
    finally:
        cluster.start(node)
        for one in cluster.nodes:
            cluster.until(lambda one=one: all_ok(cluster, one), "all serve again", LIMIT_S)  # type: ignore[misc]


def all_ok(cluster: Cluster, node: Node) -> bool:
    return str(cluster.ask(node, "CLUSTER INFO")["cluster_slots_ok"]) == str(SLOTS)


def test_leases_on_other_nodes_are_renewed(cluster: Cluster, store: Store, node: Node) -> None:
    """One call renews all that a process holds: without an answer from everybody it must not lose everything."""
    with closing(Store(cluster.url, timeout_s=1.0)) as quick:
        held = accept_all(Mailbox(quick, "inbox", Limits()), PEOPLE)
        stuck, free = split(cluster, node)
        with asleep(cluster, node):
            answers = dict(zip([one.id for one in held], Mailbox(quick, "inbox", Limits()).renew(held), strict=True))

        assert len(held) == len(PEOPLE)
        assert stuck
        assert free
        assert {answers[message.id] for message in free} == {(True, False)}
        assert {answers[message.id] for message in stuck} == {None}


def test_conversations_on_other_nodes_are_swept(cluster: Cluster, store: Store, boxes: Boxes, node: Node) -> None:
    """Also when nobody can say who sweeps."""
    _, free = split(cluster, node)
    for message in PEOPLE:
        boxes.inbox.accept(message, "text", notices=notices(message))
        store.client.zadd(keys.due("inbox", keys.shard_of(message.conversation)), {message.conversation: 1})
    woken: list[str] = []
    with closing(Store(cluster.url, deadline_s=1.0, timeout_s=1.0)) as own:
        sweeper = Sweeper(
            own,
            [Mailbox(own, "inbox", Limits())],
            wake=lambda _, conversation: woken.append(conversation),
            filled=list,
            interval_s=0.05,
        )
        with asleep(cluster, node):
            sweeper.start()
            eventually(lambda: len(woken) >= len(free))
            sweeper.close()

    assert set(woken) >= {message.conversation for message in free}


def test_threads_do_not_queue_up_before_a_silent_node(cluster: Cluster, store: Store, node: Node) -> None:
    """A pool has few threads; those that waited for a silent node would be missing everywhere else."""
    stuck, free = split(cluster, node)
    with closing(Store(cluster.url, deadline_s=60.0, timeout_s=1.0)) as own:
        inbox = Mailbox(own, "inbox", Limits(lease_s=1.0))  # a node that wakes up grants what it was asked
        for message in PEOPLE:
            inbox.accept(message, "text", notices=notices(message))
        refused = 0
        with asleep(cluster, node):
            for message in (stuck * 10)[:30]:
                with pytest.raises(StoreUnavailable):
                    inbox.lease(message.conversation, "text")
                refused += 1
            held = [inbox.lease(message.conversation, "text") for message in free]

        assert refused == 30
        assert all(isinstance(one, Lease) for one in held)
        eventually(lambda: isinstance(inbox_lease(inbox, stuck[0]), Lease))


def inbox_lease(inbox: Mailbox, message: Message) -> object:
    try:
        return inbox.lease(message.conversation, "text")
    except StoreUnavailable:
        return None


@pytest.mark.parametrize("fault", ["asleep", "killed"])
def test_a_process_that_reads_for_the_first_time_reads_from_the_other_nodes(
    cluster: Cluster, store: Store, fault: str
) -> None:
    """Its first card, or its first context, may come when the node is away that the address names first."""
    node = cluster.nodes[0]
    stuck, free = split(cluster, node)
    with closing(Store(cluster.url, deadline_s=1.0, timeout_s=1.0)) as own:
        inbox = Mailbox(own, "inbox", Limits())
        with asleep(cluster, node) if fault == "asleep" else killed(cluster, node):
            found = [(inbox.card_open(one.conversation, one.id), recall(own, one.conversation)) for one in free]
            with pytest.raises(StoreUnavailable):
                recall(own, stuck[0].conversation)

    assert found == [(False, ())] * len(free)


async def test_frames_of_other_nodes_are_stored(cluster: Cluster, store: Store, node: Node) -> None:
    """They travel in batches, one a node: nobody waits for somebody else's node."""
    stuck, free = split(cluster, node)
    record = AsyncStore(cluster.url, deadline_s=30.0, timeout_s=1.0)
    dispatcher = Dispatcher(record, Limits(), wake=lambda *_: None, say=lambda key: key)
    await dispatcher.dispatch(a_message("dingtalk:bot:first"))
    with asleep(cluster, node):
        waiting = [asyncio.create_task(dispatcher.dispatch(message)) for message in stuck]
        async with asyncio.timeout(LIMIT_S):
            await asyncio.gather(*(dispatcher.dispatch(message) for message in free))
        ended_before = any(task.done() for task in waiting)
    async with asyncio.timeout(LIMIT_S):
        await asyncio.gather(*waiting)
    await record.close()

    assert not ended_before
    assert Mailbox(store, "inbox", Limits()).waiting() == len(PEOPLE) + 1


def test_a_call_waits_for_a_node_that_was_killed_and_comes_back(cluster: Cluster, store: Store, node: Node) -> None:
    stuck, _ = split(cluster, node)
    with closing(Store(cluster.url, deadline_s=LIMIT_S)) as patient:
        inbox = Mailbox(patient, "inbox", Limits())
        inbox.accept(stuck[0], "text", notices=notices(stuck[0]))
        cluster.kill(node)
        back = threading.Thread(target=cluster.start, args=(node,))
        back.start()

        again = inbox.accept(stuck[0], "text", notices=notices(stuck[0]))

        back.join()
        assert again.outcome.value == "REPEAT"  # it was on the killed node's disk


def test_a_shard_that_moves_to_another_node_takes_its_conversations_along(cluster: Cluster, store: Store) -> None:
    """An operator adds a node: calls that come meanwhile are told where to go, and repeated there."""
    message = PEOPLE[0]
    key = keys.token(keys.shard_of(message.conversation))
    old = owner(cluster, message)
    new = next(one for one in cluster.nodes if one is not old)
    slot = str(int(cluster.ask(old, "CLUSTER KEYSLOT", key)))
    inbox = Mailbox(store, "inbox", Limits())
    inbox.accept(message, "text", notices=notices(message))

    move(cluster, slot, old, new)
    held = inbox.lease(message.conversation, "text")
    renewed = [inbox.renew([held])[0] for _ in range(2)] if isinstance(held, Lease) else []

    assert owner(cluster, message) is new
    assert isinstance(held, Lease)
    assert renewed == [(True, False)] * 2
    move(cluster, slot, new, old)
    assert inbox.commit(held).next_queue == ""


def move(cluster: Cluster, slot: str, old: Node, new: Node) -> None:
    ids = {node: cluster.ask(node, "CLUSTER MYID").decode() for node in (old, new)}
    cluster.ask(old, "CLUSTER MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", ids[new])

    def moved() -> bool:
        ranges = cluster.ask(new, "CLUSTER SLOTS")
        return any(first <= int(slot) <= last and int(place[1]) == new.port for first, last, place, *_ in ranges)

    cluster.until(moved, "the slot moves", LIMIT_S)


def test_readiness_and_the_doctor_know_a_silent_node(cluster: Cluster, store: Store, node: Node) -> None:
    settings = Settings(redis_url=SecretStr(cluster.url), _env_file=None)
    store.client.set(keys.listening("here"), 1)

    well = readiness.connected(cluster.url, "here"), records(settings)
    with asleep(cluster, node):
        ill = readiness.connected(cluster.url, "here"), records(settings)

    assert well == (
        True,
        [
            "ok      record: 3 masters answer",
            "ok      durability: every write is on disk before its answer",
            "ok      room: memory, disk and waiting messages: within their limits",
        ],
    )
    assert ill[0] is None
    assert f"127.0.0.1:{node.port} does not answer" in ill[1][0]
    assert cluster.password not in "".join(ill[1])


def test_status_counts_what_waits_on_all_nodes(cluster: Cluster, store: Store, boxes: Boxes) -> None:
    """Its broker is none here; the record's lines stand before that."""
    for message in PEOPLE:
        boxes.inbox.accept(message, "text", notices=notices(message))
    settings = Settings(redis_url=SecretStr(cluster.url), broker_url=SecretStr("redis://127.0.0.1:1"), _env_file=None)

    lines = report(settings)

    assert lines[0].startswith(f"inbox: {len(PEOPLE)} waiting, 0 in work")
    assert [line for line in lines if "FAULT" in line and "record" in line] == []


def records(settings: Settings) -> list[str]:
    return [finding.line() for finding in doctor._record(settings)]


def test_a_wrong_scheme_is_said(cluster: Cluster, tmp_path: Path) -> None:
    """One node taken for the whole would refuse most of what it is asked, and a lone server has no slots."""
    one_node = f"redis://:{cluster.password}@127.0.0.1:{cluster.nodes[0].port}/0"
    with closing(Store(one_node, deadline_s=1.0)) as store, pytest.raises(BadSetting, match=r"redis\+cluster://"):
        check_record(store)
    with (
        valkey(tmp_path) as url,
        closing(Store(f"redis+cluster://{url[8:]}", deadline_s=1.0)) as store,
        pytest.raises(BadSetting, match="write redis://"),
    ):
        store.run("overdue", [keys.due("inbox", 1)], [1])


def test_a_process_starts_while_any_one_node_is_silent(cluster: Cluster, store: Store) -> None:
    """Whichever it is: else who is killed meanwhile would not come back, and the other nodes' people had nobody."""
    for node in cluster.nodes:
        with asleep(cluster, node), closing(Store(cluster.url, deadline_s=1.0, timeout_s=1.0)) as starting:
            check_record(starting)


def test_any_node_knows_that_a_record_is_not_ours(cluster: Cluster, store: Store, node: Node) -> None:
    other = next(shard for shard in range(keys.SHARDS) if cluster.owner(keys.made_for(shard)) is not node)
    store.client.hset(keys.made_for(other), "shards", 5)

    with (
        asleep(cluster, node),
        closing(Store(cluster.url, deadline_s=1.0, timeout_s=1.0)) as starting,
        pytest.raises(BadSetting, match="5 shards"),
    ):
        check_record(starting)


def test_a_process_starts_while_one_host_of_the_address_is_gone(cluster: Cluster, store: Store) -> None:
    """The address names several hosts for this."""
    host = f"redis+cluster://:{cluster.password}@127.0.0.1:1,127.0.0.1:{cluster.nodes[1].port}"
    with closing(Store(host, deadline_s=LIMIT_S)) as starting:
        check_record(starting)
        names, args = acceptance("inbox", PEOPLE[0], "text", limits=Limits(), room=9, notices=notices(PEOPLE[0]))

        assert starting.run("accept", names, args)
