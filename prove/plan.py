"""What a run does: who talks, what breaks meanwhile, and the settings of the installation under test."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SKILLS = Path(__file__).parent / "skills"
LEASE_S = 2.0
ROLES = ("text", "sender", "listener", "redis", "default", "broker", "image", "web")
MODES = ("stream", "card", "markdown")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One run. `mode` is the installation's reply mode."""

    mode: str = "stream"
    people: int = 20
    messages_each: int = 12
    kills: Sequence[str] = ROLES
    freezes: Sequence[str] = ("text", "default")
    seed: int = 1

    def faults(self) -> list[tuple[str, str]]:
        """What is done to whom: ("kill" or "freeze", role).

        A message has no idempotency key, so a sender that dies in mid-call may send it again: in `markdown` the
        senders are left alone.
        """
        kills = [role for role in self.kills if not (self.mode == "markdown" and role == "sender")]
        return [("kill", role) for role in kills] + [("freeze", role) for role in self.freezes]

    def environment(self) -> dict[str, str]:
        """The settings of the installation under test: a short lease, and calls enough."""
        return {
            "SWITCHYARD_ENGINE": "echo",
            "SWITCHYARD_ECHO_TOKENS_PER_S": "10",
            "SWITCHYARD_SLOTS": "64",
            "SWITCHYARD_POOLS": "text=2,image=1,default=2,sender=2",
            "SWITCHYARD_SKILLS_DIR": str(SKILLS),
            "SWITCHYARD_LEASE_S": str(LEASE_S),
            "SWITCHYARD_SWEEP_INTERVAL_S": "0.5",
            "SWITCHYARD_REPLY_MODE": self.mode,
            "SWITCHYARD_CARD_CALLS_PER_S": "500",
            "SWITCHYARD_CARD_INTERVAL_MS": "200",
            "SWITCHYARD_DISK_FREE_PERCENT": "0",  # a run stores little, on whatever disk is there
        }
