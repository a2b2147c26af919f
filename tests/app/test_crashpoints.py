"""A process dies where it was told to: there, then, once, and in a test installation alone."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from app import crashpoints
from app.crashpoints import POINTS, Obeyed, Order, Point, crashpoint, give_order, give_orders_once, obeyed, read_orders
from app.errors import BadSetting
from app.settings import load_settings, unknown_variables
from app.settings_table import settings_table
from tests.app.supervised import CREDENTIALS, ROOT, environment, eventually, switchyard
from tests.valkey import free_port

HERE = {"DINGTALK_OPENAPI_ENDPOINT": "http://127.0.0.1:9", "DINGTALK_OAPI_ENDPOINT": "http://[::1]:9"}
# Passes two points, one of them twice, and says after each that it still lives.
PROGRAM = """
import sys
from pathlib import Path
from app.crashpoints import crashpoint, obey_orders
if sys.argv[2:] == ["obeys"]:
    obey_orders(Path(sys.argv[1]))
for point in ("accept/ack", "commit/wake", "commit/wake"):
    crashpoint(point)
    print(point, flush=True)
print("unflushed", end="")
"""


def start(data_dir: Path, *how: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", PROGRAM, str(data_dir), *how]
    return subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True)


def run(data_dir: Path, *how: str) -> tuple[int, list[str]]:
    """The exit status of the program, and what it said."""
    process = start(data_dir, *how)
    said, _ = process.communicate(timeout=60)
    return process.returncode, said.split()


WHOLE = (0, ["accept/ack", "commit/wake", "commit/wake", "unflushed"])


def test_a_process_dies_there_and_the_next_one_does_not(tmp_path: Path) -> None:
    """Otherwise the one that is started in its place would die too, for ever."""
    give_order(tmp_path, Order("commit/wake"))

    first = run(tmp_path, "obeys")
    second = run(tmp_path, "obeys")

    assert first == (-signal.SIGKILL, ["accept/ack"])
    assert second == WHOLE
    assert [(one.point, one.act) for one in obeyed(tmp_path)] == [("commit/wake", "die")]


def test_it_dies_at_the_passage_that_was_named_and_as_often(tmp_path: Path) -> None:
    give_order(tmp_path, Order("commit/wake", passage=2, times=2))

    ends = [run(tmp_path, "obeys") for _ in range(3)]

    assert ends == [(-9, ["accept/ack", "commit/wake"]), (-9, ["accept/ack"]), WHOLE]
    assert sorted(one.act for one in obeyed(tmp_path)) == ["die", "die", "pass"]


def test_a_process_that_was_not_told_that_it_is_for_tests_looks_for_no_orders(tmp_path: Path) -> None:
    give_order(tmp_path, Order("commit/wake"))

    assert run(tmp_path) == WHOLE
    assert obeyed(tmp_path) == []


def test_a_process_may_be_frozen_instead_and_goes_on_when_it_is_woken(tmp_path: Path) -> None:
    """So it sleeps past its lease exactly where it hurts most."""
    give_order(tmp_path, Order("accept/ack"), "freeze")

    process = start(tmp_path, "obeys")
    eventually(lambda: obeyed(tmp_path))
    assert obeyed(tmp_path) == [Obeyed("accept/ack", "freeze", process.pid)]
    eventually(lambda: Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    os.kill(process.pid, signal.SIGCONT)
    said, _ = process.communicate(timeout=60)

    assert (process.returncode, said.split()) == WHOLE


def test_an_order_of_the_settings_is_given_once_for_a_data_folder(tmp_path: Path) -> None:
    """`switchyard up` is started again with the same settings after it died."""
    orders = read_orders("commit/wake")
    for _ in range(2):
        give_orders_once(tmp_path, orders)
        status, _ = run(tmp_path, "obeys")

    assert status == 0
    assert len(obeyed(tmp_path)) == 1


def test_orders_as_they_are_written() -> None:
    written = "commit/wake, accept/ack@3 ,call/mark*2,create/update@2*3,"

    assert read_orders(written) == (
        Order("commit/wake"),
        Order("accept/ack", passage=3),
        Order("call/mark", times=2),
        Order("create/update", passage=2, times=3),
    )


def test_a_point_costs_one_look_when_nobody_is_told() -> None:
    """No installation of the real world has a folder to look into."""
    for point in POINTS:
        crashpoint(point)

    assert crashpoints._folder is None


@pytest.mark.parametrize("point", POINTS)
def test_every_point_stands_in_the_code(point: Point) -> None:
    """A test that dies at a point which nobody passes would wait for ever."""
    sources = [path for package in ("app", "workers") for path in (ROOT / package).rglob("*.py")]

    passed = sum(f'crashpoint("{point}")' in path.read_text() for path in sources)

    assert passed == 1


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without anybody's `.env`."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"SWITCHYARD_TEST_INSTALLATION": "1"}, "TEST_INSTALLATION: is for a platform on this machine"),
        ({"SWITCHYARD_TEST_INSTALLATION": "1", **HERE, "DINGTALK_OAPI_ENDPOINT": "https://oapi.example.com"}, "TEST_"),
        ({"SWITCHYARD_TEST_INSTALLATION": "1", "DINGTALK_OPENAPI_ENDPOINT": "http://127.0.0.1.example.com"}, "TEST_"),
        ({"SWITCHYARD_TEST_INSTALLATION": "perhaps", **HERE}, "TEST_INSTALLATION: must be 1 or 0"),
        ({"SWITCHYARD_DIE_BETWEEN": "commit/wake", **HERE}, "DIE_BETWEEN: is for test installations alone"),
        ({"SWITCHYARD_DIE_BETWEEN": "sooner/later", "SWITCHYARD_TEST_INSTALLATION": "1", **HERE}, "the points are"),
        ({"SWITCHYARD_DIE_BETWEEN": "call/mark@0", "SWITCHYARD_TEST_INSTALLATION": "1", **HERE}, "call/mark"),
    ],
)
def test_no_real_installation_can_be_told_to_die(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], named: str
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(BadSetting, match=named):
        load_settings()


@pytest.mark.usefixtures("nowhere")
def test_a_test_installation_may_be_told_to_die(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SWITCHYARD_TEST_INSTALLATION": "1", "SWITCHYARD_DIE_BETWEEN": "call/mark@2", **HERE}.items():
        monkeypatch.setenv(name, value)

    settings = load_settings()

    assert (settings.test_installation, settings.die_between) == (True, (Order("call/mark", passage=2),))
    assert not {"SWITCHYARD_TEST_INSTALLATION", "SWITCHYARD_DIE_BETWEEN"} & set(unknown_variables())
    assert "DIE_BETWEEN" not in settings_table()


def test_up_does_not_start_with_it_on_a_real_platform(tmp_path: Path) -> None:
    port = {"SWITCHYARD_WEB_PORT": str(free_port())}

    ended = switchyard(tmp_path, "up", SWITCHYARD_DIE_BETWEEN="commit/wake", **CREDENTIALS, **port)

    assert ended.returncode == 2
    assert ended.stderr.startswith("SWITCHYARD_DIE_BETWEEN: is for test installations alone")
    assert not (tmp_path / "data").exists()
