"""The end of a run, for people and for programs."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from prove.installation import Fault
from prove.verdict import Verdict

SHOWN = 10


@dataclass(frozen=True, slots=True)
class Report:
    """What a run found."""

    mode: str
    seed: int
    verdict: Verdict
    faults: list[Fault]


def as_json(reports: Sequence[Report]) -> str:
    """All runs as one JSON object."""
    holds = all(report.verdict.holds() for report in reports)
    return json.dumps({"holds": holds, "runs": [asdict(report) for report in reports]})


def table(reports: Sequence[Report]) -> str:
    """All runs side by side, then what broke and how long it was away."""
    names = ["sent", "accepted", "answered", *(reports[0].verdict.faults())]
    lines = [_row("", [report.mode for report in reports])]
    for name in names:
        values = [getattr(report.verdict, name) for report in reports]
        counts = [value if isinstance(value, int) else len(value) for value in values]
        lines.append(_row(name.replace("_", " "), list(map(str, counts))))
    lines += ["", _row("fault", ["whole again"])]
    lines += [_row(f"{one.what} {one.role}", [f"{one.away_s:.1f} s"]) for report in reports for one in report.faults]
    for report in reports:
        for name, found in report.verdict.faults().items():
            if found:
                lines.append(f"{report.mode}, {name.replace('_', ' ')}: {', '.join(found[:SHOWN])}")
    holds = all(report.verdict.holds() for report in reports)
    return "\n".join([*lines, "", "the promise holds" if holds else "THE PROMISE IS BROKEN"])


def _row(name: str, values: Sequence[str]) -> str:
    return f"{name:<18}" + "".join(f"{value:>12}" for value in values)
