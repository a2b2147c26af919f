"""A real supervisor with real servers and, in the place of listener and workers, toys.

Arguments: `ROLE:OPTION`, an option of toy.py for the processes of that role; `real:web`, to have the web process too.
"""

import asyncio
import dataclasses
import sys
from collections.abc import Sequence

from app.child import Spec
from app.log import setup_logging
from app.roles import roles
from app.settings import Settings, load_settings
from app.supervisor import Supervisor


def main() -> None:
    setup_logging("supervisor")
    asyncio.run(Supervisor(load_settings(), toys).run())


def toys(settings: Settings) -> Sequence[Spec]:
    return [spec if _is_real(spec) else _toy(spec) for spec in roles(settings) if spec.role != "web" or _is_real(spec)]


def _is_real(spec: Spec) -> bool:
    return spec.server is not None or f"real:{spec.role}" in sys.argv


def _toy(spec: Spec) -> Spec:
    options = [argument.partition(":")[2] for argument in sys.argv if argument.startswith(f"{spec.role}:")]
    return dataclasses.replace(spec, command=lambda _: [sys.executable, "-m", "tests.app.programs.toy", *options])


if __name__ == "__main__":
    main()
