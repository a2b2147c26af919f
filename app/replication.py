"""Answers that count only when replicas have the write too: what a failover may otherwise lose.

The replicas are asked in the same round trip and on the same connection as the scripts, by WAIT behind them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError

from app import keys
from app.scripts import Arg, Call, load_script

# Others are courtesies, or are asked again anyway. `lease` is one of these: who has its answer knows that whatever led
# to it survives a failover too, since replicas take writes in their order.
_PROMISES = frozenset(("accept", "lease", "mark", "commit", "forward", "release"))


@dataclass(frozen=True, slots=True)
class Replication:
    """How many replicas of its node must have a write, and for how long they are waited for."""

    replicas: int
    within_ms: int

    def commands(self, calls: Sequence[Call]) -> list[tuple[Arg, ...]]:
        """What to send for these calls."""
        commands = [call.command for call in calls]
        promise = next((call for call in calls if call.script.name in _PROMISES), None)
        if self.replicas and promise is not None:
            commands.append(("EVAL", load_script("waited").text, 1, keys.waited(promise.keys[0])))
            commands.append(("WAIT", self.replicas, self.within_ms))
        return commands

    def settled(self, calls: Sequence[Call], answers: Sequence[Any]) -> list[Any]:
        """The answers of the calls; an exception in the place of a promise that not enough replicas have."""
        if len(answers) == len(calls):
            return list(answers)
        *own, mark, have = answers
        if not isinstance(mark, Exception) and not isinstance(have, Exception) and have >= self.replicas:
            return own
        reason = have if isinstance(have, int) else type(have).__name__
        short = RedisConnectionError(f"{self.replicas} replicas must have a write: {reason}")
        return [
            short if call.script.name in _PROMISES and not isinstance(answer, Exception) else answer
            for call, answer in zip(calls, own, strict=True)
        ]
