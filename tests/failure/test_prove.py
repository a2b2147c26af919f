"""A small run of `switchyard prove`."""

import subprocess
import sys

import msgspec
import pytest


@pytest.mark.failure
@pytest.mark.timeout(280)
def test_the_promise_holds() -> None:
    """One `kill -9` of each role under load, in cards and in messages."""
    command = [sys.executable, "-m", "app.cli", "prove", "--people", "10", "--messages", "8", "--json"]

    run = subprocess.run(command, capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stdout + run.stderr
    result = msgspec.json.decode(run.stdout)
    assert [one["verdict"]["answered"] for one in result["runs"]] == [80, 80]
