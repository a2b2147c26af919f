"""`python -m sandbox`: a DingTalk on localhost. Credentials come from the environment or are made up on the spot."""

import argparse
import asyncio
import json
import os
import secrets
import sys
from contextlib import suppress
from pathlib import Path

import uvloop

from sandbox.rules import TEMPLATE, Rules
from sandbox.server import listen, serve
from sandbox.tokens import Credentials


def read_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m sandbox", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--port-file", type=Path, help="where to write the port")
    parser.add_argument("--credentials-file", type=Path, help="for url, client id, secret and template; private")
    parser.add_argument("--client-id", default="", help="the app's id; empty: made up")
    parser.add_argument("--client-secret-env", default="", help="the variable that holds the secret; empty: made up")
    parser.add_argument("--template", default=TEMPLATE, help="the id of the published card template")
    parser.add_argument("--key", default="content", help="its streaming variable")
    parser.add_argument("--qps", type=float, default=0, help="calls a second to each API; 0: unlimited")
    parser.add_argument("--month", type=int, default=0, help="calls a month; 0: unlimited")
    parser.add_argument("--stop-with-stdin", action="store_true", help="end when standard input ends")
    return parser.parse_args(argv)


def credentials_of(arguments: argparse.Namespace) -> Credentials:
    """The app's credentials. Exits if the named variable is empty."""
    name = arguments.client_secret_env
    secret = os.environ.get(name, "") if name else secrets.token_urlsafe(24)
    if not secret:
        sys.exit(f"{name} is empty: put the secret there, or leave --client-secret-env out")
    return Credentials(arguments.client_id or f"ding{secrets.token_hex(6)}", secret)


def write_private(path: Path, text: str) -> None:
    """Write a file whole and readable by its owner only; a reader never sees half of it."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    part.replace(path)


def main(argv: list[str] | None = None) -> None:
    """Run until SIGTERM or SIGINT."""
    arguments = read_arguments(argv)
    credentials = credentials_of(arguments)
    rules = Rules(qps=arguments.qps, month=arguments.month, templates={arguments.template: [arguments.key]})

    def announce(url: str) -> None:
        known = {"url": url, "client_id": credentials.client_id, "template_id": arguments.template}
        if arguments.credentials_file:
            write_private(arguments.credentials_file, json.dumps({**known, "client_secret": credentials.client_secret}))
        elif not arguments.client_secret_env:
            print(f"sandbox credentials {credentials.client_id} {credentials.client_secret}", flush=True)
        if arguments.port_file:
            write_private(arguments.port_file, url.rpartition(":")[2])
        print(f"sandbox ready {url}", flush=True)

    with listen(arguments.port) as bound:
        serving = serve(bound, credentials, rules, announce=announce, stop_with_stdin=arguments.stop_with_stdin)
        with suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serving)


if __name__ == "__main__":
    main()
