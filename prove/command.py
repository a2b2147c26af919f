"""The command `switchyard prove`."""

import sys
from typing import Annotated

import typer

from app.errors import BadSetting
from prove.plan import MODES, ROLES, Plan

RUN_FAILED = 3


def prove(
    people: Annotated[int, typer.Option(min=1, max=1000, help="How many people talk at the same time.")] = 20,
    messages: Annotated[int, typer.Option(min=1, max=20, help="What each of them says, one after another.")] = 12,
    seed: Annotated[int, typer.Option(help="Chooses what breaks when.")] = 1,
    mode: Annotated[str, typer.Option(help=f"Reply modes, one run each: {', '.join(MODES)}.")] = "stream,markdown",
    kill: Annotated[str, typer.Option(help="The roles that lose a process.")] = ",".join(ROLES),
    as_json: Annotated[bool, typer.Option("--json", help="The whole result as one JSON object.")] = False,
) -> None:
    """Kill everything under load, and show from the platform's log that the promise holds.

    Exit status 1 if it does not, 3 if the run could not be made.
    """
    from prove.installation import RunFailed
    from prove.report import as_json as json_of
    from prove.report import table
    from prove.run import make_run

    modes, roles = _words(mode, MODES), _words(kill, ROLES)
    plans = [Plan(mode=name, people=people, messages_each=messages, kills=roles, seed=seed) for name in modes]
    try:
        reports = [make_run(plan, lambda text: print(text, file=sys.stderr)) for plan in plans]
    except RunFailed as exc:
        print(exc, file=sys.stderr)
        raise SystemExit(RUN_FAILED) from None
    print(json_of(reports) if as_json else table(reports))
    raise SystemExit(0 if all(report.verdict.holds() for report in reports) else 1)


def _words(text: str, known: tuple[str, ...]) -> list[str]:
    words = [word for word in text.split(",") if word]
    for word in words:
        if word not in known:
            raise BadSetting(f"{word}: choose from {', '.join(known)}")
    return words
