"""What a run does: who talks, who is killed, and the settings of the installation under test."""

from collections.abc import Sequence
from dataclasses import dataclass

LEASE_S = 2.0
KILLS = ("text", "sender", "listener", "redis", "default", "broker", "image", "web")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How many people say how much, and who is killed meanwhile."""

    people: int = 20
    messages_each: int = 12
    kills: Sequence[str] = KILLS
    seed: int = 1
    mode: str = "stream"

    def environment(self) -> dict[str, str]:
        """The settings of the installation under test."""
        return {
            "SWITCHYARD_ENGINE": "echo",
            "SWITCHYARD_ECHO_TOKENS_PER_S": "8",
            "SWITCHYARD_SLOTS": "32",
            "SWITCHYARD_POOLS": "text=2,image=1,default=1,sender=2",
            "SWITCHYARD_LEASE_S": str(LEASE_S),
            "SWITCHYARD_SWEEP_INTERVAL_S": "0.5",
            "SWITCHYARD_REPLY_MODE": self.mode,
            "SWITCHYARD_CARD_CALLS_PER_S": "500",
            "SWITCHYARD_CARD_INTERVAL_MS": "200",
        }
