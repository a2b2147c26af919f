"""`make mutations`: take out one thing that keeps the promise, and see that `switchyard prove` or a test notices.

Each patch in mutations/ is applied to a copy of the tree, and `prove` is run there, or the test that the patch must
break. Exit status 1 if the run without a patch finds a fault, or one with a patch does not find what it stands for.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATCHES = Path(__file__).parent / "mutations"
PACKAGES = ("app", "workers", "skills", "sandbox", "prove", "celeryconfig.py")
RUN = ("--people", "16", "--messages", "6", "--mode", "markdown", "--kill", "text,broker,default,redis", "--json")

KINDS = ("lost", "doubled", "out_of_order", "wrong_recipient", "unexpected", "left_typing")
FAULTS: dict[str, set[str]] = {
    "none": set(),
    "fence": {"doubled"},
    "dedupe": {"doubled"},
    "due": {"lost"},
    "renewal": {"lost", "unexpected"},  # answered with an apology
}
# A redelivery hides these from `prove`: the message is answered all the same.
TESTS = {
    "same-socket": "tests/app/channels/dingtalk/test_connection.py::test_a_goodbye_is_answered_by_a_new_socket_first",
}


def main() -> None:
    """Run what is named on the command line, or everything."""
    wanted = sys.argv[1:] or ["none", *sorted(patch.stem for patch in PATCHES.glob("*.patch"))]
    wrong = [name for name in wanted if not as_expected(name)]
    print(f"{len(wanted) - len(wrong)} of {len(wanted)} runs ended as they should", flush=True)
    raise SystemExit(1 if wrong else 0)


def as_expected(name: str) -> bool:
    """Whether `prove` finds what it should: nothing without a patch, one of the patch's own faults with it."""
    with tempfile.TemporaryDirectory(prefix="switchyard-mutation-") as folder:
        tree = Path(folder)
        copy_tree(tree)
        if name != "none":
            subprocess.run(["patch", "-p1", "-s", "-i", str(PATCHES / f"{name}.patch")], cwd=tree, check=True)
        if name in TESTS:
            return fails(tree, name)
        found = prove(tree)
    good = bool(found & FAULTS[name]) if FAULTS[name] else not found
    print(
        f"{name}: found {', '.join(sorted(found)) or 'nothing'}, {'as it should' if good else 'AND SHOULD NOT'}",
        flush=True,
    )
    return good


def fails(tree: Path, name: str) -> bool:
    """Whether the test of a patch fails in the copy, as it should. Raises CalledProcessError if it could not be run."""
    shutil.copytree(ROOT / "tests", tree / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tree)
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", TESTS[name]]
    run = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    if run.returncode not in (0, 1):
        raise subprocess.CalledProcessError(run.returncode, command, run.stdout, run.stderr[-2000:])
    print(f"{name}: its test {'fails, as it should' if run.returncode else 'passes, AND SHOULD NOT'}", flush=True)
    return run.returncode == 1


def copy_tree(tree: Path) -> None:
    for package in PACKAGES:
        source = ROOT / package
        if source.is_dir():
            shutil.copytree(source, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tree / package)


def prove(tree: Path) -> set[str]:
    """The kinds of fault that the copy's `prove` finds. Raises CalledProcessError if it could not be run."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    code = "import app, sys; assert app.__file__.startswith(sys.argv[1]), app.__file__; from app.cli import main; "
    command = [sys.executable, "-c", code + "sys.argv[:2] = ['switchyard']; main()", str(tree), "prove", *RUN]
    run = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    if run.returncode not in (0, 1) or not run.stdout:
        raise subprocess.CalledProcessError(run.returncode, command, run.stdout, run.stderr[-2000:])
    verdicts = [one["verdict"] for one in json.loads(run.stdout)["runs"]]
    return {kind for verdict in verdicts for kind in KINDS if verdict[kind]}


if __name__ == "__main__":
    main()
