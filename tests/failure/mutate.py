"""`make mutations`: take out one thing that keeps the promise, and see that `switchyard prove` notices.

Each patch in mutations/ is applied to a copy of the tree, and `prove` is run there. Exit status 1 if a run without a
patch fails, or one with a patch passes.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATCHES = Path(__file__).parent / "mutations"
PACKAGES = ("app", "workers", "skills", "sandbox", "prove", "celeryconfig.py")
RUN = ("--people", "16", "--messages", "6", "--mode", "markdown", "--kill", "text,broker,default,redis")


def main() -> None:
    """Run what is named on the command line, or everything."""
    wanted = sys.argv[1:] or ["none", *sorted(patch.stem for patch in PATCHES.glob("*.patch"))]
    wrong = [name for name in wanted if not as_expected(name)]
    print(f"{len(wanted) - len(wrong)} of {len(wanted)} runs ended as they should", flush=True)
    raise SystemExit(1 if wrong else 0)


def as_expected(name: str) -> bool:
    """Whether `prove` passes without a patch, and fails with one."""
    with tempfile.TemporaryDirectory(prefix="switchyard-mutation-") as folder:
        tree = Path(folder)
        copy_tree(tree)
        if name != "none":
            subprocess.run(["patch", "-p1", "-s", "-i", str(PATCHES / f"{name}.patch")], cwd=tree, check=True)
        status = prove(tree)
    good = status == (0 if name == "none" else 1)
    print(f"{name}: prove ended with {status}, {'as it should' if good else 'AND SHOULD NOT'}", flush=True)
    return good


def copy_tree(tree: Path) -> None:
    for package in PACKAGES:
        source = ROOT / package
        if source.is_dir():
            shutil.copytree(source, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tree / package)


def prove(tree: Path) -> int:
    """Run the copy's `prove`; what it prints goes to stdout."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    code = "import app, sys; assert app.__file__.startswith(sys.argv[1]), app.__file__; from app.cli import main; "
    command = [sys.executable, "-c", code + "sys.argv[:2] = ['switchyard']; main()", str(tree), "prove", *RUN]
    return subprocess.run(command, cwd=tree, env=environment, stderr=subprocess.DEVNULL, check=False).returncode


if __name__ == "__main__":
    main()
