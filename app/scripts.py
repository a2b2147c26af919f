"""The Lua scripts by their names, and a call of one."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

Arg = str | bytes | int | float
_LUA = Path(__file__).parent / "lua"


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script as the server gets it, and the name under which it keeps it."""

    name: str
    text: str
    sha: str


@dataclass(frozen=True, slots=True)
class Call:
    """One script with its keys, which share a slot, and its arguments."""

    script: Script
    keys: Sequence[str]
    args: Sequence[Arg]

    @property
    def command(self) -> tuple[Arg, ...]:
        return ("EVALSHA", self.script.sha, len(self.keys), *self.keys, *self.args)


@cache
def load_script(name: str) -> Script:
    """Read `lua/<name>.lua` with `lua/shared.lua` behind its first line, which must stay the first."""
    shebang, _, body = (_LUA / f"{name}.lua").read_text().partition("\n")
    text = f"{shebang}\n{(_LUA / 'shared.lua').read_text()}\n{body}"
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def load_all_scripts() -> None:
    """Read every script now: a process must not meet a newer one when the files are replaced under it."""
    for file in _LUA.glob("*.lua"):
        if file.stem != "shared":
            load_script(file.stem)
