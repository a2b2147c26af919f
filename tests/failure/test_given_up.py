"""What is given up on a whole installation: the others go on, and the operator has the last word."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prove.installation import Installation
from prove.verdict import Sent, judge
from sandbox.client import SandboxClient
from sandbox.journal import ANSWERS

pytestmark = [pytest.mark.failure, pytest.mark.timeout(280)]
LIMIT_S = 90.0
SORRY = "Sorry, I tried several times"


def wait_for(condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + LIMIT_S
    while not (result := condition()):
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.1)
    return result


def say(people: SandboxClient, person: str, text: str) -> dict[str, Any]:
    return people.send_text(text, conversation=f"cid-{person}=", sender=person, staff=person)


def seen(people: SandboxClient, person: str) -> list[str]:
    """What a person was answered, in order."""
    return [event["text"] for event in people.log(0, *ANSWERS) if event["person"] == person]


def dead_letters(house: Installation, *words: str) -> str:
    """Run the operator's command beside the installation."""
    run = subprocess.run(
        [sys.executable, "-m", "app.cli", "dead-letters", *words],
        env={**os.environ, "SWITCHYARD_DATA_DIR": str(house.data_dir), "SWITCHYARD_LOCALE": "en"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_what_hangs_or_raises_is_given_up_and_the_others_go_on(
    house: Installation, people: SandboxClient, tmp_path: Path
) -> None:
    """The hung process is replaced each time; once the fault is mended the operator has the question answered."""
    mended, first = tmp_path / "mended", {one["pid"] for one in house.processes("default")}
    say(people, "raiser", f"/raise {mended}")
    say(people, "hanger", "/hang")
    others = [
        Sent(say(people, f"p{number}", f"/say #p{number}m{turn}#")["msgId"], f"p{number}", turn, f"p{number}m{turn}")
        for turn in range(2)
        for number in range(5)
    ]

    wait_for(lambda: seen(people, "hanger") and seen(people, "raiser"))
    wait_for(lambda: judge(others, others_log(people)).answered == 10)
    letters = {one["reason"]: one for one in json.loads(dead_letters(house, "list", "--json"))}
    shown = dead_letters(house, "show", letters["it hung, or its worker vanished"]["id"])
    mended.write_text("well again")
    dead_letters(house, "replay", letters["it raised each time"]["id"])
    wait_for(lambda: len(seen(people, "raiser")) == 2)
    dead_letters(house, "drop", "--all", "--yes")

    assert judge(others, others_log(people)).holds()
    assert [text.startswith(SORRY) for text in seen(people, "hanger")] == [True]
    assert seen(people, "raiser")[0].startswith(SORRY)
    assert seen(people, "raiser")[1] == f"Late answer to “{f'/raise {mended}'[:40].rstrip()}…”:\n\nwell again"
    assert letters["it raised each time"]["error"] == "FileNotFoundError"
    assert "time.sleep(0.05)" in shown
    assert "/hang" not in shown
    assert "no dead letters" in dead_letters(house, "list")
    assert not first & {one["pid"] for one in house.processes("default")}


def others_log(people: SandboxClient) -> list[dict[str, Any]]:
    return [event for event in people.log() if event.get("person") not in ("hanger", "raiser")]
