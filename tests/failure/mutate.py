"""`make mutations`: take out one thing that keeps the promise, and see that the suite notices.

Each patch in mutations/ is applied to a copy of the tree, and what should notice is run there: `switchyard prove`,
which must find the patch's own kind of fault, or tests, which must fail. Exit status 1 if something does not notice, or
if anything fails without a patch. Names on the command line choose among them.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

ROOT = Path(__file__).resolve().parents[2]
PATCHES = Path(__file__).parent / "mutations"
PARTS = ("app", "workers", "skills", "sandbox", "prove", "tests", "celeryconfig.py", "pyproject.toml")
KINDS = ("lost", "doubled", "out_of_order", "wrong_recipient", "unexpected", "left_typing", "notices")
TESTS_FAILED = 1  # pytest's exit status; 2 to 5: they could not be run


class Check(Protocol):
    """Something that should notice."""

    @property
    def name(self) -> str:
        """The same for checks that do the same."""
        ...

    def finds(self, tree: Path) -> set[str]:
        """What is wrong in a tree; empty if all is well. Raises CalledProcessError if it could not be run."""
        ...

    def notices(self, found: set[str]) -> bool:
        """Whether that is what its mutation must lead to."""
        ...


@dataclass(frozen=True, slots=True)
class Prove:
    """A run of `switchyard prove`, which should find a fault of one of these kinds."""

    arguments: Sequence[str]
    kinds: frozenset[str]

    @property
    def name(self) -> str:
        return " ".join(self.arguments)

    def finds(self, tree: Path) -> set[str]:
        code = "import app, sys; assert app.__file__.startswith(sys.argv[1]), app.__file__; from app.cli import main; "
        command = [sys.executable, "-c", code + "sys.argv[:2] = ['switchyard']; main()", str(tree), "prove", "--json"]
        ran = _run([*command, *self.arguments], tree, may_end_with=(0, 1))
        verdicts = [one["verdict"] for one in json.loads(ran.stdout)["runs"]]
        found = {kind for verdict in verdicts for kind in KINDS if verdict[kind]}
        return found or ({"exit status 1"} if ran.returncode else set())

    def notices(self, found: set[str]) -> bool:
        return bool(found & self.kinds)


@dataclass(frozen=True, slots=True)
class Tests:
    """Tests, one of which should fail."""

    names: Sequence[str]

    @property
    def name(self) -> str:
        return " ".join(self.names)

    def finds(self, tree: Path) -> set[str]:
        command = [sys.executable, "-m", "pytest", "-m", "", "-p", "no:cacheprovider", *self.names]
        failed = _run(command, tree, may_end_with=(0, TESTS_FAILED)).returncode
        return {f"a failure in {self.names[0]}"} if failed else set()

    def notices(self, found: set[str]) -> bool:
        return bool(found)


HARD = ("--mode", "markdown", "--messages", "150", "--kills", "4", "--roles", "text,broker,default,redis")
IN_CARDS = ("--mode", "card", "--messages", "150", "--kills", "7", "--roles", "sender,text")
# A message that goes unanswered is lost, or its person gets a notice: no run of these is full, late or poisoned.
CHECKS: Mapping[str, Check] = {
    "fence": Prove(HARD, frozenset({"doubled"})),
    "dedupe": Prove(HARD, frozenset({"doubled"})),
    "due": Prove(HARD, frozenset({"lost"})),
    "renewal": Prove(HARD, frozenset({"lost", "doubled", "notices"})),
    "guid": Prove(IN_CARDS, frozenset({"doubled"})),
    "suspect": Tests(["tests/workers/test_suspects.py"]),
    "disk": Tests(["tests/app/test_disk.py::test_the_listener_acknowledges_nothing_while_the_disk_is_short"]),
    "same-socket": Tests(
        ["tests/app/channels/dingtalk/test_connection.py::test_a_goodbye_is_answered_by_a_new_socket_first"]
    ),
}


def main() -> None:
    """Run what is named on the command line, or everything."""
    unknown = {patch.stem for patch in PATCHES.glob("*.patch")} ^ set(CHECKS)
    if unknown:
        raise SystemExit(f"a patch without a check, or a check without a patch: {', '.join(sorted(unknown))}")
    wanted = sys.argv[1:] or ["none", *CHECKS]
    wrong = [name for name in wanted if not (all_is_well() if name == "none" else is_noticed(name))]
    print(f"{len(wanted) - len(wrong)} of {len(wanted)} ended as they should", flush=True)
    raise SystemExit(1 if wrong else 0)


def all_is_well() -> bool:
    """Whether nothing is found in the tree as it is: else no check could tell a mutation from a fault of its own."""
    once = {check.name: check for check in CHECKS.values()}
    found = set().union(*(find(check, patch=None) for check in once.values()))
    print(f"none: {_listed(found)}{', AND SHOULD NOT' if found else ', as it should be'}", flush=True)
    return not found


def is_noticed(name: str) -> bool:
    """Whether a mutation is noticed."""
    found = find(CHECKS[name], patch=PATCHES / f"{name}.patch")
    good = CHECKS[name].notices(found)
    print(f"{name}: {_listed(found)}, {'as it should' if good else 'WHICH IS NOT ENOUGH'}", flush=True)
    return good


def find(check: Check, *, patch: Path | None) -> set[str]:
    """What a check finds in a copy of the tree, with a patch or without."""
    with tempfile.TemporaryDirectory(prefix="switchyard-mutation-") as folder:
        tree = Path(folder)
        for part in PARTS:
            copy(part, tree)
        if patch:
            subprocess.run(["patch", "-p1", "-s", "-i", str(patch)], cwd=tree, check=True)
        return check.finds(tree)


def _listed(found: set[str]) -> str:
    return f"finds {', '.join(sorted(found))}" if found else "finds nothing"


def copy(part: str, tree: Path) -> None:
    """Copy a folder or a file of the tree."""
    source = ROOT / part
    if source.is_dir():
        shutil.copytree(source, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, tree / part)


def _run(command: list[str], tree: Path, *, may_end_with: Sequence[int]) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    ran = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    if ran.returncode not in may_end_with or not ran.stdout:
        print(ran.stdout[-2000:], ran.stderr[-2000:], file=sys.stderr)
        ran.check_returncode()
    return ran


if __name__ == "__main__":
    main()
