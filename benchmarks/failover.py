"""What a failover of the record costs: acknowledged messages that the promoted replica does not have.

`python -m benchmarks.failover` makes a cluster of three masters with one replica each. It measures what it costs to
wait for a replica (`SWITCHYARD_REPLICAS_ACK=1`), in turns with not waiting, and beside it what a write costs that a
replica has on its disk too (WAITAOF). Then it has messages accepted side by side, kills a master with `kill -9`, lets
its replica be promoted, starts the dead one again, and looks which acknowledged messages are gone: with the link
between the two whole to the end, and with a link that broke a moment before, as a network does that takes a machine
with it.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import redis

from app import keys
from app.acceptance import Limits, acceptance, read_accepted
from app.message import Address, Message, Reply, conversation_id
from app.redis import AsyncStore, Store
from benchmarks.figures import Figure, Reach, arguments_for, median, percentile, say, show
from prove.cluster import MASTERS, Cluster, valkey_cluster

NODE_TIMEOUT_MS = 1000
LIMIT_S = 60.0
SIDE_BY_SIDE = 64  # messages in accept at the same time
RUN_S = 1.0  # of load before a master is killed, and after all is whole again
NONE_LOST = Reach("=", 0)
ROOM = 10**9


@dataclass(slots=True)
class Load:
    """What was acknowledged and when, in seconds of one clock."""

    run: str
    acknowledged: list[tuple[float, Message]] = field(default_factory=list)
    ended: bool = False


def a_message(run: str, number: int) -> Message:
    """One of a conversation of its own."""
    address = Address(channel="dingtalk", robot="bench", chat=run, group=False, person=f"p{number}")
    return Message(
        id=f"dingtalk:bench:{run}-{number}",
        conversation=conversation_id("dingtalk", "bench", run, f"p{number}"),
        kind="text",
        text="how are things",
        sent_at=time.time(),
        address=address,
    )


async def accept(store: AsyncStore, message: Message) -> None:
    """As the listener does it."""
    notice = Reply(id=message.id, conversation=message.conversation, address=message.address, text="full")
    names, args = acceptance("inbox", message, "text", limits=Limits(), room=ROOM, notices=(notice, notice))
    read_accepted(await store.run("accept", names, args))


# What the wait costs


async def rate(url: str, replicas: int, run: str, count: int) -> float:
    """Messages accepted in a second, side by side."""
    store, numbers = AsyncStore(url, replicas=replicas), iter(range(count))

    async def one_after_another() -> None:
        for number in numbers:
            await accept(store, a_message(run, number))

    await accept(store, a_message(run, count))
    began = time.monotonic()
    await asyncio.gather(*(one_after_another() for _ in range(SIDE_BY_SIDE)))
    took_s = time.monotonic() - began
    await store.close()
    return count / took_s


async def alone_ms(url: str, replicas: int, run: str, count: int) -> list[float]:
    """Milliseconds of each of some messages, one at a time."""
    store, took_ms = AsyncStore(url, replicas=replicas), []
    for number in range(count):
        began = time.monotonic()
        await accept(store, a_message(run, number))
        took_ms.append((time.monotonic() - began) * 1000)
    await store.close()
    return took_ms[count // 10 :]  # connections are made with the first


def write_ms(client: "redis.Redis", count: int, *behind: str) -> list[float]:
    """Milliseconds of a plain write with a command behind it in the same round trip."""
    took_ms = []
    for number in range(count):
        pipeline = client.pipeline(transaction=False)
        pipeline.set("bench:{0}", number)
        if behind:
            pipeline.execute_command(*behind)  # type: ignore[no-untyped-call]
        began = time.monotonic()
        pipeline.execute()
        took_ms.append((time.monotonic() - began) * 1000)
    return took_ms


def cost(cluster: Cluster, *, messages: int, rounds: int, writes: int) -> list[Figure]:
    """Both ways in turns; the median of the rounds counts."""
    rates: dict[int, list[float]] = {0: [], 1: []}
    alone: dict[int, list[float]] = {0: [], 1: []}
    for number in range(rounds):
        for replicas in rates:
            rates[replicas].append(asyncio.run(rate(cluster.url, replicas, f"r{number}-{replicas}", messages)))
            alone[replicas] += asyncio.run(alone_ms(cluster.url, replicas, f"a{number}-{replicas}", messages // 10))
            say(f"round {number + 1}, waiting for {replicas}: {rates[replicas][-1]:,.0f} messages/s")
    with cluster.client(cluster.owner("bench:{0}")) as client:
        plain, waited, on_disk = (
            median(write_ms(client, writes, *behind))
            for behind in ((), ("WAIT", "1", "1000"), ("WAITAOF", "1", "1", "1000"))
        )
    ratio = median([slow / fast for slow, fast in zip(rates[1], rates[0], strict=True)])
    return [
        Figure("accepted without waiting", median(rates[0]), "/s"),
        Figure("accepted when a replica has it", median(rates[1]), "/s"),
        Figure("with / without, median of rounds", ratio, "x"),
        Figure("alone without waiting, p50", percentile(alone[0], 0.5), "ms"),
        Figure("alone when a replica has it, p50", percentile(alone[1], 0.5), "ms"),
        Figure("alone without waiting, p99", percentile(alone[0], 0.99), "ms"),
        Figure("alone when a replica has it, p99", percentile(alone[1], 0.99), "ms"),
        Figure("a plain write, median", plain, "ms"),
        Figure("... and WAIT 1", waited, "ms"),
        Figure("... and WAITAOF 1 1", on_disk, "ms"),
    ]


# What a failover loses


async def failover(cluster: Cluster, *, replicas: int, cut_s: float, run: str) -> list[Figure]:
    """Accept, kill a master, promote, and count what is gone. `cut_s`: so long before that the link broke."""
    store = AsyncStore(cluster.url, deadline_s=LIMIT_S, timeout_s=2.0, replicas=replicas)
    load = Load(run)
    people = [asyncio.create_task(_accept_on(store, load, number)) for number in range(SIDE_BY_SIDE)]
    killed_at, shards = await asyncio.to_thread(_kill_and_mend, cluster, cut_s)
    load.ended = True
    await asyncio.gather(*people)
    await store.close()
    gone = await asyncio.to_thread(_missing, cluster.url, load)
    name = f"waiting for {replicas}, link {'cut' if cut_s else 'whole'}"
    return [
        Figure(f"{name}: acknowledged", len(load.acknowledged)),
        Figure(f"{name}: lost", len(gone), reach=NONE_LOST if replicas else None),
        Figure(f"{name}: the killed master's conversations stood still", _gap_s(load, shards, killed_at), "s"),
    ]


async def _accept_on(store: AsyncStore, load: Load, number: int) -> None:
    while not load.ended:
        message = a_message(load.run, number)
        await accept(store, message)
        load.acknowledged.append((time.monotonic(), message))
        number += SIDE_BY_SIDE


def _kill_and_mend(cluster: Cluster, cut_s: float) -> tuple[float, set[int]]:
    """When a master was killed, and which shards it had. All is whole again when this returns."""
    time.sleep(RUN_S)
    master = cluster.owner(keys.token(0))
    shards = {shard for shard in range(keys.SHARDS) if cluster.owner(keys.token(shard)) is master}
    replica = cluster.replica_of(master)
    if cut_s:
        cluster.freeze(replica)  # it would connect again within a second
        cluster.ask(master, "CLIENT KILL", "TYPE", "replica")
        time.sleep(cut_s)
    cluster.kill(master)
    killed_at = time.monotonic()
    cluster.thaw(replica)
    cluster.until(lambda: len(cluster.masters()) == MASTERS, "the replica is promoted", LIMIT_S)
    cluster.start(master)
    cluster.until(lambda: cluster.is_whole(1), "all is whole again", LIMIT_S)
    time.sleep(RUN_S)
    return killed_at, shards


def _missing(url: str, load: Load) -> list[Message]:
    """Acknowledged messages that the record does not know."""
    with closing(Store(url)) as store:
        names = [(keys.seen(message.conversation, message.id), message) for _, message in load.acknowledged]
        return [message for name, message in names if not store.server_of(name).exists(name)]


def _gap_s(load: Load, shards: set[int], killed_at: float) -> float:
    """The longest time without an acknowledgement for the killed master's shards, from the kill on."""
    later = sorted(at for at, message in load.acknowledged if at > killed_at and _shard(message) in shards)
    return max((after - before for before, after in pairwise([killed_at, *later])), default=float("nan"))


def _shard(message: Message) -> int:
    return keys.shard_of(message.conversation)


def losses(cluster: Cluster, *, cut_s: float, runs: int) -> list[Figure]:
    """Each way, each link; the counts of all runs together, the longest standstill."""
    found: list[Figure] = []
    for replicas in (0, 1):
        for cut in (0.0, cut_s):
            rows = []
            for number in range(runs):
                say(f"failover {number + 1} of {runs}, waiting for {replicas}, {'cut' if cut else 'whole'} link")
                run = f"f{number}-{replicas}-{bool(cut):d}"
                rows.append(asyncio.run(failover(cluster, replicas=replicas, cut_s=cut, run=run)))
            acknowledged, lost, stood_still = zip(*rows, strict=True)
            found += [_joined(acknowledged, sum), _joined(lost, sum), _joined(stood_still, max)]
    return found


def _joined(figures: Sequence[Figure], join: Callable[[list[float]], float]) -> Figure:
    first = figures[0]
    return Figure(first.name, join([one.value for one in figures]), first.unit, first.reach)


def read_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = arguments_for(__doc__)
    parser.add_argument("--messages", type=int, default=3000, help="messages in each run that measures the cost")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each way")
    parser.add_argument("--writes", type=int, default=20, help="plain writes of each kind; WAITAOF takes a second")
    parser.add_argument("--failovers", type=int, default=2, help="failovers of each kind")
    parser.add_argument("--cut-s", type=float, default=0.3, help="how long before the kill the link broke")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    arguments = read_arguments(argv)
    with (
        tempfile.TemporaryDirectory(prefix="switchyard-failover-") as folder,
        valkey_cluster(Path(folder), replicas=1, node_timeout_ms=NODE_TIMEOUT_MS) as cluster,
    ):
        found = cost(cluster, messages=arguments.messages, rounds=arguments.rounds, writes=arguments.writes)
        show(found + losses(cluster, cut_s=arguments.cut_s, runs=arguments.failovers), arguments)


if __name__ == "__main__":
    main()
