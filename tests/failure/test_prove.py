"""Small runs of `switchyard prove`."""

import subprocess
import sys

import msgspec
import pytest


@pytest.mark.failure
@pytest.mark.timeout(280)
@pytest.mark.parametrize(("mode", "kills", "messages"), [("stream", 10, 150), ("markdown", 5, 80)])
def test_the_promise_holds(mode: str, kills: int, messages: int) -> None:
    """A `kill -9` of each role while it has work in hand (of the first half in messages), and lesser evils between."""
    many = ["--kills", str(kills), "--messages", str(messages)]
    command = [sys.executable, "-m", "app.cli", "prove", "--mode", mode, *many, "--json"]

    run = subprocess.run(command, capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stdout + run.stderr
    result = msgspec.json.decode(run.stdout)["runs"][0]
    assert result["kills"] == kills
    assert result["verdict"]["answered"] >= messages
    assert all(fault["held"] for fault in result["faults"] if fault["what"] == "kill")
