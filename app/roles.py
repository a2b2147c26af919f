"""What runs under the supervisor: one line a role, as anybody could start it by hand."""

import sys
from pathlib import Path

from app.child import Spec
from app.disk import MB
from app.servers import EmbeddedServer, prepare, reserve_of
from app.settings import POOLS, QUEUE_OF_POOL, Pool, Settings

_SLOTS_SURPLUS = 2  # a text worker has so many threads a slot: the surplus waits in the engine, so slots stay full


def roles(settings: Settings) -> tuple[Spec, ...]:
    """All processes of one machine, the embedded servers first."""
    python = sys.executable
    return (
        *(_server(server) for server in embedded_servers(settings)),
        Spec(role="web", command=lambda _: [python, "-m", "app.cli", "run", "web"], early=True),
        Spec(role="listener", command=lambda _: [python, "-m", "app.cli", "run", "listener"], overlaps=True),
        *(_pool(pool, settings) for pool in POOLS),
    )


def embedded_servers(settings: Settings) -> tuple[EmbeddedServer, ...]:
    """The servers that no setting names, prepared to start in the data folder."""
    data_dir: Path = settings.data_dir
    servers = []
    if not settings.redis_url.get_secret_value():
        memory_bytes, reserve = settings.record_memory_mb * MB, reserve_of(settings)
        servers.append(
            prepare("redis", data_dir, memory_bytes=memory_bytes, to_start_bytes=reserve.to_start_bytes),
        )
    if not settings.broker_url.get_secret_value():
        servers.append(prepare("broker", data_dir))
    return tuple(servers)


def _server(server: EmbeddedServer) -> Spec:
    return Spec(role=server.role, command=lambda _: server.command, server=server, early=True)


def _pool(pool: Pool, settings: Settings) -> Spec:
    threads = {"text": _SLOTS_SURPLUS * settings.slots, "image": 2, "default": 8, "sender": 16}[pool]
    queue = QUEUE_OF_POOL[pool]

    def command(number: int) -> list[str]:
        celery = [sys.executable, "-m", "celery", "-A", f"workers.{pool}", "worker"]
        work = ["-Q", queue, "-P", "threads", "-c", str(threads), "-n", f"{pool}{number}@switchyard"]
        # These three make workers talk among themselves; nothing here listens to it.
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING"]
        return celery + work + quiet

    return Spec(role=pool, command=command, count=settings.pools.get(pool, 1), queue=queue)
