"""The command line as a person meets it: what it prints, and with which status it ends."""

import asyncio
import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.doctor import clock, consumers
from app.errors import BadSetting
from app.settings import Settings
from app.supervisor import Supervisor
from app.web.readiness import missing_of
from tests.app.supervised import CREDENTIALS, Supervised, eventually, switchyard
from tests.valkey import free_port


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervised]:
    one = Supervised(tmp_path_factory.mktemp("cli") / "data")
    yield one.until_ready()
    one.end()


def test_up_without_credentials_names_both_and_the_demo(tmp_path: Path) -> None:
    ended = switchyard(tmp_path, "up", DINGTALK_CLIENT_ID="only-one")

    assert ended.returncode == 2
    assert "DINGTALK_CLIENT_ID and DINGTALK_CLIENT_SECRET" in ended.stderr
    assert "make demo" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not list(tmp_path.iterdir())


def test_each_wrong_setting_has_its_line(tmp_path: Path) -> None:
    wrong = {"SWITCHYARD_WEB_PORT": "http", "SWITCHYARD_POOLS": "text=lots", "DINGTALK_CLIENT_SECRET": "the-secret"}

    ended = switchyard(tmp_path, "up", **wrong)

    assert ended.returncode == 2
    assert [line.split(":")[0] for line in ended.stderr.splitlines()] == ["SWITCHYARD_WEB_PORT", "SWITCHYARD_POOLS"]
    assert "text=2,image=1" in ended.stderr
    assert "the-secret" not in ended.stderr


def test_a_misspelt_setting_is_named_with_the_one_that_is_meant(tmp_path: Path) -> None:
    """It would be ignored without a word. The start goes on all the same: here it ends for want of credentials."""
    (tmp_path / ".env").write_text("SWITCHYARD_LOCAL=en\n")
    named = {"SWITCHYARD_DRAINS": "7", "SWITCHYARD_XYZZY_PLUGH": "1", "SWITCHYARD_CI": "1", "SWITCHYARD_SLOTS": "2"}

    ended = switchyard(tmp_path, "up", **named)

    lines = ended.stderr.splitlines()
    assert lines[:3] == [
        "SWITCHYARD_DRAINS: there is no such setting; is SWITCHYARD_DRAIN_S meant?",
        "SWITCHYARD_LOCAL: there is no such setting; is SWITCHYARD_LOCALE meant?",
        "SWITCHYARD_XYZZY_PLUGH: there is no such setting",
    ]
    assert [line.split(":")[0] for line in lines[3:]] == ["DINGTALK_CLIENT_ID and DINGTALK_CLIENT_SECRET"]


def test_up_beside_another_supervisor_names_its_pid(running: Supervised, tmp_path: Path) -> None:
    ended = switchyard(tmp_path, "up", SWITCHYARD_DATA_DIR=str(running.data_dir), **CREDENTIALS)

    assert ended.returncode == 1
    assert f"pid {running.process.pid}" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("command", [["ps"], ["scale", "text=2"]])
def test_without_a_supervisor_the_mend_is_named(tmp_path: Path, command: list[str]) -> None:
    ended = switchyard(tmp_path, *command)

    assert ended.returncode == 1
    assert "switchyard up" in ended.stderr
    assert "SWITCHYARD_DATA_DIR" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("pool", ["text=-1", "send=2"])
def test_scale_says_how_it_is_written(tmp_path: Path, pool: str) -> None:
    ended = switchyard(tmp_path, "scale", pool)

    assert ended.returncode == 2
    assert "text=2" in ended.stderr


def test_ps_prints_json_for_programs_and_a_table_for_people(running: Supervised, tmp_path: Path) -> None:
    folder = {"SWITCHYARD_DATA_DIR": str(running.data_dir)}

    programs, people = switchyard(tmp_path, "ps", "--json", **folder), switchyard(tmp_path, "ps", **folder)

    assert [one["pid"] for one in json.loads(programs.stdout)] == running.pids()
    table = [line.split() for line in people.stdout.splitlines()]
    assert table[0] == ["ROLE", "PID", "QUEUE", "STATE", "UPTIME"]
    assert ["sender", str(running.pid("sender")), "send", "ready"] in [row[:4] for row in table]


def test_scale_waits_when_asked_to(running: Supervised, tmp_path: Path) -> None:
    folder = {"SWITCHYARD_DATA_DIR": str(running.data_dir)}

    grown = switchyard(tmp_path, "scale", "text=2", "image=2", "--wait", **folder)
    counts = len(running.ready("text")), len(running.ready("image"))
    shrunk = switchyard(tmp_path, "scale", "text=1", "image=1", **folder)

    assert (grown.returncode, shrunk.returncode) == (0, 0)
    assert counts == (2, 2)
    eventually(lambda: len(running.ps("text")) == 1)


def test_version_is_one_line(tmp_path: Path) -> None:
    ended = switchyard(tmp_path, "version")

    assert ended.returncode == 0
    assert ended.stdout.startswith("switchyard 0.")


def test_doctor_names_a_mend_for_each_fault(running: Supervised, tmp_path: Path) -> None:
    """Here the platform is a closed port, and everything else is well."""
    settings = {
        "SWITCHYARD_DATA_DIR": str(running.data_dir),
        "SWITCHYARD_ENGINE": "echo",
        "DINGTALK_OPENAPI_ENDPOINT": f"http://127.0.0.1:{free_port()}",
    }

    ended = switchyard(tmp_path, "doctor", **settings, **CREDENTIALS)

    found = {line[8:].partition(":")[0]: line for line in ended.stdout.splitlines()}
    faults = [line for line in found.values() if line.startswith("fault")]
    assert ended.returncode == 1
    assert faults == [found["platform"]]
    assert "DINGTALK_OPENAPI_ENDPOINT" in found["platform"]
    assert {"record", "durability", "broker", "model", "queue send"} <= set(found)
    assert CREDENTIALS["DINGTALK_CLIENT_SECRET"] not in ended.stdout + ended.stderr


def test_doctor_finds_servers_that_do_not_answer(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"redis://:hidden-word@127.0.0.1:{nobody.getsockname()[1]}/0"
        ended = switchyard(tmp_path, "doctor", SWITCHYARD_REDIS_URL=url, SWITCHYARD_BROKER_URL=url)

    faults = [line[8:].partition(":")[0] for line in ended.stdout.splitlines() if line.startswith("fault")]
    assert ended.returncode == 1
    assert {"credentials", "record", "broker"} <= set(faults)
    assert "hidden-word" not in ended.stdout + ended.stderr


def test_a_clock_that_is_off_is_a_fault() -> None:
    """Signatures and message order are by time; the platform refuses what is far away."""
    date, epoch = "Thu, 01 Jan 2026 00:00:00 GMT", 1767225600.0

    assert clock(date, epoch + 4).verdict == "ok"
    assert clock(date, epoch - 30).verdict == "fault"
    assert clock("", epoch).verdict == "warning"


def test_a_queue_without_a_ready_process_is_a_fault() -> None:
    processes = [{"role": "text", "state": "ready"}, {"role": "sender", "state": "starting"}]

    found = {finding.check: finding for finding in consumers(processes, {"default": 0})}

    assert found["queue text"].verdict == "ok"
    assert found["queue send"].verdict == "fault"
    assert "scale image=1" in found["queue image"].mend
    assert (found["queue default"].verdict, found["queue default"].says) == ("ok", "none wanted")


def test_readiness_names_what_is_missing() -> None:
    """A place that is being closed is no reason to send people elsewhere; one that is being filled again is."""
    processes = [{"role": "text", "state": "draining"}, {"role": "image", "state": "restarting"}]

    some = missing_of(supervisor={"started": True, "processes": processes}, record=True, broker=True)
    early = missing_of(supervisor={"started": False, "processes": []}, record=False, broker=True)

    assert some == ["image: restarting"]
    assert early == ["supervisor: is still starting"]


def up_for_a_moment(folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """`up` with a wrong setting; it must end of itself, with one line."""
    return switchyard(folder, "up", **CREDENTIALS, **{"SWITCHYARD_ENGINE": "echo"} | settings)


def test_up_names_a_port_that_is_in_use(tmp_path: Path) -> None:
    """Found later, it would be a web process that dies again and again."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = up_for_a_moment(tmp_path, SWITCHYARD_WEB_PORT=str(port))

    assert ended.returncode == 2
    assert f"SWITCHYARD_WEB_PORT: port {port} of 127.0.0.1 is in use" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "data" / "redis").exists()


@pytest.mark.parametrize("address", ["192.0.2.1", "no such host"])
def test_up_names_an_address_that_is_not_of_this_machine(tmp_path: Path, address: str) -> None:
    ended = up_for_a_moment(tmp_path, SWITCHYARD_BIND=address)

    assert ended.returncode == 2
    assert f"SWITCHYARD_BIND: {address} is not an address of this machine" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_up_names_a_data_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    ended = up_for_a_moment(tmp_path, SWITCHYARD_DATA_DIR=str(tmp_path / "file" / "data"))

    assert ended.returncode == 2
    assert ended.stderr.startswith("SWITCHYARD_DATA_DIR: ")
    assert len(ended.stderr.splitlines()) == 1


def test_up_names_a_data_folder_that_cannot_be_written() -> None:
    """/proc takes no files, whoever asks."""
    with pytest.raises(BadSetting, match=r"SWITCHYARD_DATA_DIR: /proc/\d+ cannot be made or written"):
        asyncio.run(Supervisor(Settings(data_dir=Path("/proc/self"), _env_file=None), lambda _: ()).run())


def test_up_names_a_folder_without_a_model_and_says_where_answers_will_go(tmp_path: Path) -> None:
    wrong = {"SWITCHYARD_ENGINE": "slots", "SWITCHYARD_MODEL": "./nowhere"}

    ended = up_for_a_moment(tmp_path, **wrong)
    warned = up_for_a_moment(tmp_path, SWITCHYARD_REPLY_MODE="card", SWITCHYARD_BIND="192.0.2.1")

    assert ended.returncode == 2
    assert ended.stderr == "SWITCHYARD_MODEL: there is no folder ./nowhere; name one, or a model of the hub\n"
    assert warned.stderr.startswith("SWITCHYARD_REPLY_MODE: card needs a card template")
    assert "answers go as messages" in warned.stderr.splitlines()[0]
