"""What a benchmark prints: figures, each with what it should reach, as a table for people or JSON for machines."""

import argparse
import json
import math
import operator
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

_COMPARE: dict[str, Callable[[float, float], bool]] = {"<": operator.lt, ">=": operator.ge, "=": operator.eq}


@dataclass(frozen=True, slots=True)
class Reach:
    """What a figure should be: less than, at least, or exactly a limit."""

    sign: Literal["<", ">=", "="]
    limit: float

    def met_by(self, value: float) -> bool:
        return _COMPARE[self.sign](value, self.limit)

    def __str__(self) -> str:
        return f"{self.sign} {self.limit:g}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One number. Without a reach it is there to be read beside the others."""

    name: str
    value: float
    unit: str = ""
    reach: Reach | None = None

    def met(self) -> bool | None:
        return None if self.reach is None else self.reach.met_by(self.value)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` (0 to 1) of all values do not exceed; NaN for no values."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def median(values: Sequence[float]) -> float:
    """The middle value; NaN for no values."""
    return statistics.median(values) if values else math.nan


def table(figures: Sequence[Figure]) -> str:
    """The figures in columns: name, value with its unit, reach, whether it was reached."""
    rows = [("figure", "value", "reach", "")]
    rows += [(one.name, _shown(one), str(one.reach or ""), _verdict(one)) for one in figures]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join((name.ljust(widths[0]), value.rjust(widths[1]), reach.ljust(widths[2]), verdict)).rstrip()
        for name, value, reach, verdict in rows
    ]
    return "\n".join(lines)


def as_json(figures: Sequence[Figure]) -> str:
    """The figures as one JSON document; a value that could not be measured is null."""
    return json.dumps([_plain(one) for one in figures])


def arguments_for(description: str | None) -> argparse.ArgumentParser:
    """A command line with what all benchmarks have in common."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser


def show(figures: Sequence[Figure], arguments: argparse.Namespace) -> None:
    """Print the figures on standard output, in the form that was asked for."""
    print(as_json(figures) if arguments.json else table(figures))


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def _shown(figure: Figure) -> str:
    whole = abs(figure.value) >= 100 or float(figure.value).is_integer()
    number = f"{figure.value:,.0f}" if whole else f"{figure.value:,.2f}"
    return f"{number} {figure.unit}".rstrip()


def _verdict(figure: Figure) -> str:
    return {None: "", True: "reached", False: "MISSED"}[figure.met()]


def _plain(figure: Figure) -> dict[str, object]:
    return {
        "figure": figure.name,
        "value": None if math.isnan(figure.value) else figure.value,
        "unit": figure.unit,
        "reach": None if figure.reach is None else str(figure.reach),
        "met": figure.met(),
    }
