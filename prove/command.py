"""The command `switchyard prove`."""

import sys
from typing import Annotated

import typer

from app.errors import BadSetting
from prove.plan import BROKERS, FEWEST, MODES, RECORDS, ROLES, Plan

RUN_FAILED = 3


def prove(
    messages: Annotated[int, typer.Option(min=FEWEST, max=1_000_000, help="What is said in all, in each run.")] = 300,
    kills: Annotated[int, typer.Option(min=0, max=100_000, help="How many processes are killed at work.")] = len(ROLES),
    seed: Annotated[int, typer.Option(help="Chooses what breaks when; the same seed, the same schedule.")] = 1,
    mode: Annotated[str, typer.Option(help=f"Reply modes, one run each: {', '.join(MODES)}.")] = ",".join(MODES),
    broker: Annotated[str, typer.Option(help=f"One of {', '.join(BROKERS)}.")] = BROKERS[0],
    record: Annotated[str, typer.Option(help=f"One of {', '.join(RECORDS)}.")] = RECORDS[0],
    roles: Annotated[str, typer.Option(help="Who is killed.")] = ",".join(ROLES),
    as_json: Annotated[bool, typer.Option("--json", help="The whole result as one JSON object.")] = False,
) -> None:
    """Kill everything under load, and show from the platform's log that the promise holds.

    Exit status 1 if it does not, 3 if the run could not be made.
    """
    from prove.installation import RunFailed
    from prove.rabbitmq import RabbitFailed
    from prove.report import as_json as json_of
    from prove.report import table
    from prove.run import make_run

    modes, victims = _words(mode, MODES), _words(roles, ROLES)
    _words(broker, BROKERS)
    _words(record, RECORDS)
    if kills and not victims:
        raise BadSetting("--roles: name at least one, or ask for --kills 0")
    plans = [
        Plan(mode=name, messages=messages, kills=kills, roles=victims, seed=seed, broker=broker, record=record)
        for name in modes
    ]
    try:
        reports = [make_run(plan, lambda text: print(text, file=sys.stderr)) for plan in plans]
    except (RunFailed, RabbitFailed) as exc:
        print(exc, file=sys.stderr)
        raise SystemExit(RUN_FAILED) from None
    print(json_of(reports) if as_json else table(reports))
    raise SystemExit(0 if all(report.holds() for report in reports) else 1)


def _words(text: str, known: tuple[str, ...]) -> list[str]:
    words = [word for word in text.split(",") if word]
    for word in words:
        if word not in known:
            raise BadSetting(f"{word}: choose from {', '.join(known)}")
    return words
