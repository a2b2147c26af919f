"""`make mutations`: take out one thing that keeps the promise, and see that `switchyard prove` notices.

Each patch in mutations/ is applied to a copy of the tree, and `prove` is run there, or the test that is named for it.
Exit status 1 if the run without a patch finds a fault, or one with a patch does not find the fault that it stands for.
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
PACKAGES = ("app", "workers", "skills", "sandbox", "prove", "tests", "celeryconfig.py", "pyproject.toml")
RUN = ("--people", "16", "--messages", "6", "--mode", "markdown", "--kill", "text,broker,default,redis", "--json")

KINDS = ("lost", "doubled", "out_of_order", "wrong_recipient", "unexpected", "left_typing")
FAULTS: dict[str, set[str]] = {
    "none": set(),
    "fence": {"doubled"},
    "dedupe": {"doubled"},
    "due": {"lost"},
    "renewal": {"lost", "unexpected"},  # answered with an apology
    "suspect": {"failed tests"},
}
TESTS = {"suspect": "tests/workers/test_suspects.py"}  # what a run of `prove` would not meet


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
        found = failed(tree, TESTS[name]) if name in TESTS else prove(tree)
    good = bool(found & FAULTS[name]) if FAULTS[name] else not found
    print(
        f"{name}: found {', '.join(sorted(found)) or 'nothing'}, {'as it should' if good else 'AND SHOULD NOT'}",
        flush=True,
    )
    return good


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


def failed(tree: Path, tests: str) -> set[str]:
    """Whether the copy fails these tests. Raises CalledProcessError if they could not be run."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tests]
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    if run.returncode not in (0, 1):
        raise subprocess.CalledProcessError(run.returncode, command, run.stdout[-2000:], run.stderr[-2000:])
    return {"failed tests"} if run.returncode else set()


if __name__ == "__main__":
    main()
