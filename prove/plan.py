"""What a run does: who talks, what breaks in which order, and the settings of the installation under test. Pure."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

SKILLS = Path(__file__).parent / "skills"
LEASE_S = 2.0
MODES = ("card", "stream", "markdown")
BROKERS = ("embedded", "rabbitmq")
RECORDS = ("embedded", "cluster")
# `sweeper` is whichever worker sweeps at the moment; `supervisor` takes every process of the machine with it.
ROLES = ("text", "sender", "listener", "redis", "default", "broker", "image", "web", "sweeper", "supervisor")
TALK_A_PERSON, FEWEST, MOST = 20, 10, 60
KILLS_A_DISTURBANCE = 3

What = Literal["kill", "freeze", "cut", "drop", "slow", "unsure"]


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that is done to the installation, and to whom."""

    what: What
    whom: str

    def __str__(self) -> str:
        return f"{self.what} {self.whom}"


DISTURBANCES: tuple[Step, ...] = (
    Step("freeze", "text"),  # it sleeps past its leases, and wakes up
    Step("freeze", "default"),  # the same, with skills that hear no cancel
    Step("unsure", "platform"),  # calls are done, and answered with 504
    Step("drop", "wake-ups"),  # what waits in the queues is gone
    Step("cut", "platform"),  # its sockets are reset
    Step("freeze", "sender"),
    Step("cut", "record"),
    Step("slow", "platform"),
    Step("cut", "broker"),
    Step("freeze", "listener"),
    Step("freeze", "broker"),
    Step("freeze", "redis"),
    Step("freeze", "image"),
)
# A message has no idempotency key: a call that was done and said to be unknown is made again, by the contract.
NOT_IN_MARKDOWN = Step("unsure", "platform")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One run. `mode` is the installation's reply mode; `messages` are those of all people together."""

    mode: str = "stream"
    messages: int = 240
    kills: int = len(ROLES)
    roles: Sequence[str] = ROLES
    seed: int = 1
    broker: str = "embedded"
    record: str = "embedded"

    @property
    def people(self) -> int:
        """How many talk at the same time."""
        return max(FEWEST, min(MOST, self.messages // TALK_A_PERSON))

    def steps(self) -> list[Step]:
        """Everything that is done, in order: the same for the same seed. Each role is killed as often as any other."""
        chance = random.Random(self.seed)
        victims = [self.roles[number % len(self.roles)] for number in range(self.kills)] if self.roles else []
        chance.shuffle(victims)
        disturbances = [step for step in DISTURBANCES if not (self.mode == "markdown" and step == NOT_IN_MARKDOWN)]
        steps: list[Step] = []
        for number, role in enumerate(victims):
            if number % KILLS_A_DISTURBANCE == 0:
                steps.append(disturbances[number // KILLS_A_DISTURBANCE % len(disturbances)])
            steps.append(Step("kill", role))
        return steps

    def environment(self) -> dict[str, str]:
        """The settings of the installation under test: a short lease, and calls enough."""
        return {
            "SWITCHYARD_ENGINE": "echo",
            "SWITCHYARD_ECHO_TOKENS_PER_S": "10",
            "SWITCHYARD_SLOTS": "64",
            "SWITCHYARD_POOLS": "text=2,image=2,default=2,sender=2",
            "SWITCHYARD_SKILLS_DIR": str(SKILLS),
            "SWITCHYARD_LOCALE": "en",
            "SWITCHYARD_LEASE_S": f"{LEASE_S:g}",
            "SWITCHYARD_SWEEP_INTERVAL_S": "0.5",
            "SWITCHYARD_REPLY_MODE": self.mode,
            "SWITCHYARD_CARD_CALLS_PER_S": "500",
            "SWITCHYARD_CARD_INTERVAL_MS": "500",
            "SWITCHYARD_DISK_FREE_PERCENT": "0",  # a run stores little, on whatever disk is there
        }
