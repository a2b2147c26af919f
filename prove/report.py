"""The end of a run, for people and for programs."""

import json
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from prove.breaking import Fault
from prove.plan import LEASE_S, ROLES, Plan
from prove.verdict import Verdict

SHOWN = 10
TOLERANCE_S = 2.0  # promise 6: a conversation moves again within max(lease, boot of its role) and this


@dataclass(frozen=True, slots=True)
class Recovery:
    """How long what a killed process held stood still, over all kills of a role. Seconds."""

    role: str
    kills: int
    held: int
    median_s: float
    p99_s: float
    worst_s: float
    boot_s: float  # the longest boot of the role in this run
    promise_s: float

    def kept(self) -> bool:
        return self.worst_s <= self.promise_s


@dataclass(frozen=True, slots=True)
class Report:
    """What a run found."""

    plan: Plan
    verdict: Verdict
    faults: list[Fault]
    took_s: float

    def holds(self) -> bool:
        """Whether the promise was kept; how long recovery took is not part of it."""
        others = [name for name in self.verdict.faults() if name != "doubled"]
        whole = self.verdict.accepted == self.verdict.sent > 0 and self.kills() == self.plan.kills
        few = len(self.verdict.doubled) <= sum(fault.ends_calls() for fault in self.faults)
        return whole and few and not self.unexcused() and not any(self.verdict.faults()[name] for name in others)

    def kills(self) -> int:
        """Kills of a process that held work."""
        return sum(fault.what == "kill" for fault in self.faults)

    def excuses(self) -> dict[str, str]:
        """What was seen twice and may be, with the fault that did it.

        A message has no idempotency key: what a sender had in hand when it died or overslept is sent again. It may have
        had several, each of another person; in all there are no more than such faults.
        """
        if self.plan.mode != "markdown":
            return {}
        excuses: dict[str, str] = {}
        for number, fault in enumerate(self.faults):
            for mark in self.verdict.doubled:
                if fault.ends_calls() and mark not in excuses and self.verdict.ids[mark] in fault.messages:
                    excuses[mark] = f"{number + 1}: {fault.what} {fault.whom} (pid {fault.pid})"
        return excuses

    def unexcused(self) -> list[str]:
        """What was seen twice without an excuse."""
        excuses = self.excuses()
        return [mark for mark in self.verdict.doubled if mark not in excuses]

    def recoveries(self) -> list[Recovery]:
        """One for each role that was killed."""
        return [recovery for role in ROLES if (recovery := self._recovery(role))]

    def _recovery(self, role: str) -> Recovery | None:
        kills = [fault for fault in self.faults if (fault.what, fault.whom) == ("kill", role)]
        times = sorted(seconds for fault in kills for seconds in fault.recovery_s)
        if not times:
            return None
        boot_s = max(fault.boot_s for fault in kills)
        return Recovery(
            role,
            kills=len(kills),
            held=sum(fault.held for fault in kills),
            median_s=statistics.median(times),
            p99_s=times[math.ceil(0.99 * len(times)) - 1],
            worst_s=times[-1],
            boot_s=boot_s,
            promise_s=max(LEASE_S, boot_s) + TOLERANCE_S,
        )


def as_json(reports: Sequence[Report]) -> str:
    """All runs as one JSON object."""
    runs = [
        {
            "mode": report.plan.mode,
            "plan": asdict(report.plan),
            "schedule": [str(step) for step in report.plan.steps()],
            "holds": report.holds(),
            "kills": report.kills(),
            "verdict": asdict(report.verdict) | {"ids": report.verdict.ids_of_faults()},
            "excuses": report.excuses(),
            "recovery": [asdict(one) | {"kept": one.kept()} for one in report.recoveries()],
            "faults": [asdict(fault) for fault in report.faults],
            "took_s": report.took_s,
        }
        for report in reports
    ]
    return json.dumps({"holds": all(report.holds() for report in reports), "runs": runs})


def table(reports: Sequence[Report]) -> str:
    """All runs side by side, then what broke and how long it was away."""
    holds = all(report.holds() for report in reports)
    lines = [*_counts(reports), "", *_recovery_table(reports), *_details(reports), ""]
    return "\n".join([*lines, "the promise holds" if holds else "THE PROMISE IS BROKEN"])


def _counts(reports: Sequence[Report]) -> Iterator[str]:
    yield _row("", [report.plan.mode for report in reports])
    for name in ("sent", "accepted", "answered"):
        yield _row(name, [str(getattr(report.verdict, name)) for report in reports])
    yield _row("  by an apology", [str(report.verdict.notices) for report in reports])
    for name in reports[0].verdict.faults():
        yield _row(name.replace("_", " "), [str(len(report.verdict.faults()[name])) for report in reports])
    yield _row("  by contract", [str(len(report.excuses())) for report in reports])
    yield _row("kills", [str(report.kills()) for report in reports])
    yield _row("other faults", [str(len(report.faults) - report.kills()) for report in reports])
    yield _row("minutes", [f"{report.took_s / 60:.1f}" for report in reports])


def _recovery_table(reports: Sequence[Report]) -> Iterator[str]:
    yield f"{'recovery, seconds':<22}" + "".join(
        f"{name:>9}" for name in ("kills", "held", "median", "p99", "worst", "boot", "promise")
    )
    for report in reports:
        for one in report.recoveries():
            numbers = (one.median_s, one.p99_s, one.worst_s, one.boot_s, one.promise_s)
            columns = f"{one.kills:>9}{one.held:>9}" + "".join(f"{number:>9.2f}" for number in numbers)
            yield f"{report.plan.mode + ', ' + one.role:<22}{columns}" + ("" if one.kept() else "  late")


def _details(reports: Sequence[Report]) -> Iterator[str]:
    for report in reports:
        excuses = report.excuses()
        for name, found in report.verdict.faults().items():
            if found:
                shown = [f"{mark} ({excuses[mark]})" if mark in excuses else mark for mark in found[:SHOWN]]
                yield f"{report.plan.mode}, {name.replace('_', ' ')}: {', '.join(shown)}"
        if report.kills() < report.plan.kills:
            yield f"{report.plan.mode}: only {report.kills()} of {report.plan.kills} kills found work in hand"


def _row(name: str, values: Sequence[str]) -> str:
    return f"{name:<18}" + "".join(f"{value:>12}" for value in values)
