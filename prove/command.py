"""The command `switchyard prove`."""

import sys
from typing import Annotated

import typer

from prove.plan import KILLS, Plan


def prove(
    people: Annotated[int, typer.Option(min=1, max=1000, help="How many people talk at the same time.")] = 20,
    messages: Annotated[int, typer.Option(min=1, max=20, help="What each of them says, one after another.")] = 12,
    seed: Annotated[int, typer.Option(help="Chooses who is killed when.")] = 1,
    mode: Annotated[str, typer.Option(help="stream, card or markdown.")] = "stream",
    kill: Annotated[str, typer.Option(help="The roles that lose a process, in a random order.")] = ",".join(KILLS),
    as_json: Annotated[bool, typer.Option("--json", help="The whole result as one JSON object.")] = False,
) -> None:
    """Kill everything under load, and show from the platform's log that the promise holds. Exit status 1 if not."""
    from prove.run import make_run, table

    roles = [role for role in kill.split(",") if role]
    if unknown := set(roles) - set(KILLS):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: choose from {', '.join(KILLS)}")
    plan = Plan(people=people, messages_each=messages, kills=roles, seed=seed, mode=mode)
    report = make_run(plan, lambda text: print(text, file=sys.stderr))
    print(report.as_json() if as_json else table(report))
    raise SystemExit(0 if report.verdict.holds() else 1)
