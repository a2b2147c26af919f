"""A small run of `switchyard prove`."""

import subprocess
import sys

import msgspec
import pytest

from prove.plan import ROLES


@pytest.mark.failure
@pytest.mark.timeout(280)
@pytest.mark.parametrize("mode", ["stream", "markdown"])
def test_the_promise_holds(mode: str) -> None:
    """One `kill -9` of each role while it has work in hand, and the lesser evils between them."""
    command = [sys.executable, "-m", "app.cli", "prove", "--messages", "150", "--mode", mode, "--json"]

    run = subprocess.run(command, capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stdout + run.stderr
    result = msgspec.json.decode(run.stdout)["runs"][0]
    assert (result["kills"], result["verdict"]["answered"]) == (len(ROLES), 150)
    assert all(fault["held"] for fault in result["faults"] if fault["what"] == "kill")
