"""Calls that come together share a round trip, and nothing else: each has its own answer, error and end."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest_asyncio
from redis.exceptions import ResponseError

from app import keys
from app.acceptance import Accepted, Limits, Outcome, acceptance, read_accepted
from app.mailbox import Mailbox
from app.message import Message
from app.redis import AsyncStore, Store
from tests.samples import a_message, notices


@pytest_asyncio.fixture
async def rush(valkey_url: str, store: Store) -> AsyncIterator[AsyncStore]:
    rush = AsyncStore(valkey_url)
    yield rush
    await rush.close()


def accepting(rush: AsyncStore, message: Message) -> Coroutine[Any, Any, Any]:
    names, args = acceptance("inbox", message, "text", limits=Limits(), room=10_000, notices=notices(message))
    return rush.run("accept", names, args)


async def test_a_rush_is_stored_whole_and_each_caller_gets_its_own_answer(rush: AsyncStore, store: Store) -> None:
    messages = [a_message(sender=f"$:p{number}==") for number in range(500)]

    answers = await asyncio.gather(*(accepting(rush, message) for message in [*messages, *messages]))

    outcomes = [read_accepted(answer) for answer in answers]
    assert outcomes[:500] == [Accepted(Outcome.WAKE, "text")] * 500
    assert outcomes[500:] == [Accepted(Outcome.REPEAT, "text")] * 500
    assert Mailbox(store, "inbox", Limits()).waiting() == 500


async def test_a_server_that_forgot_the_scripts_is_told_again(rush: AsyncStore, store: Store) -> None:
    """As after its restart."""
    await accepting(rush, a_message())
    store.client.script_flush()

    answers = await asyncio.gather(*(accepting(rush, a_message(sender=f"$:p{number}==")) for number in range(20)))

    assert {read_accepted(answer).outcome for answer in answers} == {Outcome.WAKE}


async def test_a_call_that_fails_fails_alone(rush: AsyncStore, store: Store) -> None:
    broken = a_message(sender="$:broken==")
    store.client.set(keys.items("inbox", broken.conversation), "this is no list")
    good = [a_message(sender=f"$:p{number}==") for number in range(20)]

    answers = await asyncio.gather(*(accepting(rush, message) for message in [broken, *good]), return_exceptions=True)

    assert isinstance(answers[0], ResponseError)
    assert {read_accepted(answer).outcome for answer in answers[1:]} == {Outcome.WAKE}


async def test_a_caller_that_leaves_takes_nobody_along(rush: AsyncStore) -> None:
    tasks = [asyncio.create_task(accepting(rush, a_message(sender=f"$:p{number}=="))) for number in range(20)]
    await asyncio.sleep(0)

    tasks[3].cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)

    assert isinstance(answers[3], asyncio.CancelledError)
    assert all(not isinstance(answer, BaseException) for answer in answers[:3] + answers[4:])
