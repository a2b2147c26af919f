"""The command `switchyard`: thin; what a command does stands in the module that it names."""

import asyncio
import errno
import importlib.metadata
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from app.control import RESTART_DONE, RESTART_UNDER_WAY, ask
from app.crashpoints import give_orders_once
from app.dead_letters import commands as dead_letters
from app.engine_commands import commands as engine_commands
from app.errors import BadSetting, SwitchyardError
from app.log import setup_logging
from app.process import end_with_parent
from app.settings import POOLS, Settings, closest_variable, load_settings, unknown_variables
from prove.command import prove

cli = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help="A private assistant for a chat."
)
run = typer.Typer(no_args_is_help=True)
cli.add_typer(dead_letters, name="dead-letters")
cli.add_typer(engine_commands, name="engine")
cli.add_typer(run, name="run", hidden=True, help="One process, as the supervisor starts it.")

_POLL_S = 0.1
_PORT_WAIT_S = 1.0  # a web process whose supervisor and warden were killed is still leaving
_WAIT_LIMIT_S = 300.0


def main() -> None:
    """Run the command line. Exit status 2: a wrong value or setting; 1: it could not be done."""
    try:
        cli()
    except BadSetting as exc:
        _say_and_exit(str(exc), status=2)
    except SwitchyardError as exc:
        _say_and_exit(str(exc), status=1)
    except KeyboardInterrupt:
        raise SystemExit(130) from None


@cli.command()
def up() -> None:
    """Start every process of this machine, and keep them running until SIGTERM."""
    from app.child import Spec
    from app.roles import roles
    from app.supervisor import Supervisor

    def specs(settings: Settings) -> Sequence[Spec]:
        """Called when the data folder is ours: the web process of a supervisor before us is gone by then."""
        _require_port(settings.bind, settings.web_port)
        give_orders_once(settings.data_dir, settings.die_between)
        return roles(settings)

    _warn_of_unknown_variables()
    settings = load_settings()
    _require_credentials(settings)
    _require_model(settings)
    _warn_of_no_template(settings)
    _log_as("supervisor", settings)
    end_with_parent(lambda: os.kill(os.getpid(), signal.SIGTERM))  # if whoever started it asked for that
    asyncio.run(Supervisor(settings, specs).run())


@cli.command()
def ps(as_json: Annotated[bool, typer.Option("--json", help="A list of objects.")] = False) -> None:
    """Role, pid, queue, state and uptime of every process of this machine."""
    processes = ask(load_settings().data_dir, {"do": "ps"})["processes"]
    print(json.dumps(processes) if as_json else _table(processes))


@cli.command()
def scale(
    pools: Annotated[list[str], typer.Argument(help="Such as text=3 image=1.", metavar="POOL=NUMBER...")],
    wait: Annotated[bool, typer.Option("--wait", help="Return when it is done, not when it is accepted.")] = False,
) -> None:
    """Change the number of worker processes of a pool. Surplus ones finish what they do."""
    wanted = dict(map(_pool_and_number, pools))
    data_dir = load_settings().data_dir
    ask(data_dir, {"do": "scale", "pools": wanted})
    deadline = time.monotonic() + _WAIT_LIMIT_S
    while wait and not _has(ask(data_dir, {"do": "ps"})["processes"], wanted):
        if time.monotonic() > deadline:
            _say_and_exit(f"not done after {_WAIT_LIMIT_S:.0f} s: see `switchyard ps` and the logs", status=1)
        time.sleep(_POLL_S)


@cli.command()
def restart(
    roles: Annotated[
        list[str] | None, typer.Argument(help="Such as text sender; without: all but the servers.", metavar="[ROLE...]")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Return when it is done, not when it has begun.")] = False,
) -> None:
    """Replace processes one after another, each ready before the next one goes: what an upgrade needs."""
    data_dir = load_settings().data_dir
    ask(data_dir, {"do": "restart", "roles": roles or []})
    while wait and (how_far := ask(data_dir, {"do": "ps"})["restart"]) != RESTART_DONE:
        if how_far != RESTART_UNDER_WAY:
            _say_and_exit(f"restart {how_far}", status=1)
        time.sleep(_POLL_S)


@cli.command()
def status() -> None:
    """Processes, and what waits in the queues."""
    from app import servers
    from app.status import report

    settings = load_settings()
    print(_table(ask(settings.data_dir, {"do": "ps"})["processes"]))
    for line in report(servers.resolved(settings)):
        print(line)


@cli.command()
def doctor() -> None:
    """Check the settings, the platform, the servers and the model; one line a check, with its mend."""
    from app.doctor import examine

    findings = examine(load_settings())
    for finding in findings:
        print(finding.line())
    raise SystemExit(1 if any(finding.verdict == "fault" for finding in findings) else 0)


@cli.command()
def version() -> None:
    """The version of this program."""
    print(f"switchyard {importlib.metadata.version('switchyard')}")


cli.command("prove")(prove)


@run.command("listener")
def run_listener() -> None:
    """Hold the platform's connections."""
    from app.listening import main as listen

    settings = load_settings()
    _log_as("listener", settings)
    listen(settings)


@run.command("web")
def run_web() -> None:
    """Answer health and readiness."""
    from app.web.server import main as serve

    settings = load_settings()
    _log_as("web", settings)
    end_with_parent(lambda: os.kill(os.getpid(), signal.SIGTERM))
    serve(settings)


def _warn_of_unknown_variables() -> None:
    for name in unknown_variables():
        meant = closest_variable(name)
        print(f"{name}: there is no such setting" + (f"; is {meant} meant?" if meant else ""), file=sys.stderr)


def _require_credentials(settings: Settings) -> None:
    if not (settings.dingtalk_client_id and settings.dingtalk_client_secret.get_secret_value()):
        raise BadSetting(
            "DINGTALK_CLIENT_ID and DINGTALK_CLIENT_SECRET: set both, in the environment or in .env, to the values of "
            "your app; to try it without an app, run `make demo`"
        )


def _require_model(settings: Settings) -> None:
    if settings.holds_model and settings.model.startswith(("/", ".")) and not Path(settings.model).is_dir():
        raise BadSetting(f"SWITCHYARD_MODEL: there is no folder {settings.model}; name one, or a model of the hub")


def _warn_of_no_template(settings: Settings) -> None:
    if settings.reply_mode in ("stream", "card") and not settings.dingtalk_card_template_id:
        print(
            f"SWITCHYARD_REPLY_MODE: {settings.reply_mode} needs a card template; DINGTALK_CARD_TEMPLATE_ID is not "
            "set, so answers go as messages",
            file=sys.stderr,
        )


def _require_port(host: str, port: int) -> None:
    """See that the web process can listen. Raises BadSetting."""
    deadline = time.monotonic() + _PORT_WAIT_S
    try:
        places = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        while not all(_is_free(family, address) for family, _, _, _, address in places):
            if time.monotonic() > deadline:
                raise BadSetting(f"SWITCHYARD_WEB_PORT: port {port} of {host} is in use; name another one")
            time.sleep(_POLL_S)
    except PermissionError as exc:
        raise BadSetting(f"SWITCHYARD_WEB_PORT: port {port} is not for this user; name one above 1023") from exc
    except (OSError, UnicodeError) as exc:
        raise BadSetting(f"SWITCHYARD_BIND: {host} is not an address of this machine; try 127.0.0.1") from exc


def _is_free(family: int, address: Any) -> bool:
    """Whether a server can listen there. Raises OSError if that is for another reason than that one does."""
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            probe.bind(address)
        except OSError as exc:
            if exc.errno == errno.EADDRINUSE:
                return False
            raise
        return True


def _log_as(role: str, settings: Settings) -> None:
    setup_logging(role, level=settings.log_level, style=settings.log_format)


def _pool_and_number(text: str) -> tuple[str, int]:
    pool, _, number = text.partition("=")
    if pool not in POOLS or not (number.isascii() and number.isdigit()):
        raise BadSetting(f"{text}: write it as text=2, with one of {', '.join(POOLS)}")
    return pool, int(number)


def _has(processes: list[dict[str, Any]], wanted: dict[str, int]) -> bool:
    """Whether each pool has its number of ready processes and no other."""
    states = {pool: [one["state"] for one in processes if one["role"] == pool] for pool in wanted}
    return all(states[pool] == ["ready"] * number for pool, number in wanted.items())


def _table(processes: list[dict[str, Any]]) -> str:
    rows = [("ROLE", "PID", "QUEUE", "STATE", "UPTIME")]
    for one in processes:
        uptime = f"{one['uptime_s']:.0f} s"
        rows.append((one["role"], str(one["pid"] or "-"), one["queue"] or "-", one["state"], uptime))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _say_and_exit(text: str, *, status: int) -> None:
    print(text, file=sys.stderr)
    raise SystemExit(status)


if __name__ == "__main__":
    main()
