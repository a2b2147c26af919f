"""One place for one process. What its supervisor makes of many stands in test_supervisor.py."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from structlog.testing import capture_logs

from app.child import Child, Spec, Surroundings
from tests.app.channels.dingtalk.streams import until


@asynccontextmanager
async def a_child(folder: Path, *options: str, complain_again_s: float, overlaps: bool = False) -> AsyncIterator[Child]:
    """A toy in its place, which is soon complained of; ended afterwards."""
    alive_fd, our_end = os.pipe()
    around = Surroundings(
        environment={},
        log_folder=folder,
        alive_fd=alive_fd,
        on_change=lambda: None,
        adopt=lambda _: None,
        complain_after_s=0.05,
        complain_again_s=complain_again_s,
    )
    spec = Spec(
        role="text", command=lambda _: [sys.executable, "-m", "tests.app.programs.toy", *options], overlaps=overlaps
    )
    child = Child(spec, 1, around)
    running = asyncio.create_task(child.run())
    try:
        yield child
    finally:
        child.drain(5.0)
        await asyncio.wait_for(running, 20)
        for descriptor in (alive_fd, our_end):
            os.close(descriptor)


def complaints(logs: list[Any]) -> list[Any]:
    return [entry for entry in logs if entry["event"] == "process is not ready yet"]


async def test_a_process_that_is_not_ready_is_complained_of_again_and_again_with_its_log(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with capture_logs() as logs:
        async with a_child(tmp_path, f"gate={gate}", complain_again_s=0.05) as child:
            await until(lambda: len(complaints(logs)) >= 3)
            gate.touch()
            await until(lambda: child.state == "ready")
            said = len(complaints(logs))
            await asyncio.sleep(0.3)

    assert len(complaints(logs)) == said
    assert complaints(logs)[0]["process"] == "text-1"
    assert complaints(logs)[0]["log"] == str(tmp_path / "text-1.log")


async def test_one_that_dies_again_and_again_is_complained_of_no_more_often(tmp_path: Path) -> None:
    """Each life of its own would bring a line of its own."""
    with capture_logs() as logs:
        async with a_child(tmp_path, "dies", complain_again_s=600):
            await until(lambda: sum(entry["event"] == "process ended" for entry in logs) >= 3)

    assert len(complaints(logs)) <= 1
