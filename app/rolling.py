"""A rolling restart: one process after another is replaced, and each is ready before the next one goes."""

from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Protocol

import structlog

from app.child import Child, Spec
from app.control import RESTART_DONE
from app.errors import BadSetting

# Who reads what others write comes first: nothing of a newer version waits for a reader. The servers, if they are
# named, come last.
ORDER = ("sender", "default", "image", "text", "listener", "web", "broker", "redis")
SERVERS = ("broker", "redis")
READY_LIMIT_S = 300.0  # and the drain of the one before it
log = structlog.get_logger()


class Until(Protocol):
    """Wait until the children are as wanted, or the time is over."""

    def __call__(self, condition: Callable[..., bool], *, within_s: float | None) -> Coroutine[Any, Any, None]: ...


def roles_to_restart(named: Sequence[str], known: Iterable[str]) -> list[str]:
    """The roles of a restart in their order: those that are named, or all but the servers.

    Raises:
        BadSetting: one of them does not run here.
    """
    here = sorted(known, key=ORDER.index)
    if unknown := [role for role in named if role not in here]:
        raise BadSetting(f"restart: {unknown[0]} does not run here; choose from {', '.join(here)}")
    return [role for role in here if role in named or (not named and role not in SERVERS)]


async def roll(
    children: Sequence[Child],
    *,
    until: Until,
    beside: Callable[[Spec], Child],
    is_there: Callable[[Child], bool],
    drain_s: float,
) -> str:
    """Replace these processes one after another; `done`, or where it stopped: the others are left alone then.

    `beside` opens another place of a role; `is_there` says whether a place still is.
    """

    async def ready_or_gone(child: Child) -> bool:
        def settled() -> bool:
            return child.state == "ready" or not is_there(child)

        await until(settled, within_s=drain_s + READY_LIMIT_S)
        return settled()

    for child in children:
        if not await ready_or_gone(child):
            return _stopped_at(child)
        if not is_there(child):  # it was scaled down meanwhile
            continue
        if child.spec.overlaps:
            fresh = beside(child.spec)
            if not await ready_or_gone(fresh):
                fresh.drain(drain_s)
                return _stopped_at(fresh)
            child.drain(drain_s)
            await until(lambda leaving=child: not is_there(leaving), within_s=None)
        else:
            child.replace(drain_s)
            if not await ready_or_gone(child):
                return _stopped_at(child)
    log.info("restart is done", processes=len(children))
    return RESTART_DONE


def _stopped_at(child: Child) -> str:
    log.error("restart stopped: a process does not become ready", process=child.name)
    return f"stopped at {child.name}, which does not become ready: see its log"
