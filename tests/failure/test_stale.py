"""After a long outage of the workers: nobody is answered from another day, and everybody is told."""

import time
from collections.abc import Iterator

import pytest

from prove.installation import Installation, installation
from prove.plan import Plan
from sandbox.client import SandboxClient
from sandbox.journal import ANSWERS
from sandbox.process import Sandbox
from tests.failure.test_given_up import say, seen, wait_for

pytestmark = [pytest.mark.failure, pytest.mark.timeout(280)]
STALE_AFTER_S = 2.0
POOLS = ("text", "default")


@pytest.fixture(scope="module")
def house(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An installation that is soon too late."""
    settings = {**Plan().environment(), "SWITCHYARD_LOCALE": "en", "SWITCHYARD_STALE_AFTER_S": str(STALE_AFTER_S)}
    settings |= {"SWITCHYARD_POOLS": "text=1,image=0,default=1,sender=1", "SWITCHYARD_ECHO_TOKENS_PER_S": "0"}
    with installation(tmp_path_factory.mktemp("stale"), sandbox, settings) as house:
        yield house


def test_twenty_stale_messages_get_one_apology_before_what_came_after(
    house: Installation, people: SandboxClient
) -> None:
    """It says how many it is for; what is not stale yet is answered, in order."""
    house.scale(**dict.fromkeys(POOLS, 0))
    house.wait_until(lambda: not any(map(house.processes, POOLS)), "no worker is left")
    sent = [say(people, "ann", "/status" if number % 5 == 4 else f"number {number}") for number in range(20)]
    say(people, "bob", "hello?")
    wait_for(lambda: len({event["msgId"] for event in people.log(0, "acked")}) == len(sent) + 1)
    time.sleep(STALE_AFTER_S + 0.5)  # this is what the test is about

    house.scale(**dict.fromkeys(POOLS, 1))
    wait_for(lambda: seen(people, "ann") and seen(people, "bob"))
    say(people, "ann", "and now?")
    wait_for(lambda: len(seen(people, "ann")) >= 2)

    (apology, answer), (other,) = seen(people, "ann"), seen(people, "bob")
    assert "(messages: 20)" in apology
    assert answer == "and now?"
    assert "(messages: 1)" in other
    assert len(people.log(0, *ANSWERS)) == 3
