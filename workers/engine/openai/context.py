"""How long a prompt may be at the servers, and how long one is: by a server's count, else by an estimate."""

import logging
import math
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol, TypeVar

from app.errors import RequestRejected
from workers.engine.fitting import Messages, fit_messages
from workers.engine.openai.answer import Answer
from workers.engine.openai.client import Client
from workers.engine.openai.estimate import at_most, estimated
from workers.engine.openai.failures import Failure, TooLong
from workers.engine.openai.servers import Server, Servers

log = logging.getLogger(__name__)

LEAST_TOKENS: Final = 32  # of a model's context
FIT_S: Final = 5.0  # for all the counting that one prompt takes; after that it is estimated
_MARGIN: Final = 1.05  # on a count that was made from the server's word on another prompt

Outcome = TypeVar("Outcome")


class Ask(Protocol):
    """Runs a coroutine in the loop's thread and waits for it; raises what it raises, or TimeoutError."""

    def __call__(self, work: Callable[[], Coroutine[Any, Any, Outcome]], within_s: float) -> Outcome: ...


class NotCounted(Exception):
    """No server counted these tokens."""


class Context:
    """The limit of a prompt with its answer, in tokens: the setting's, or less if a server says so."""

    def __init__(self, client: Client, servers: Servers, *, max_tokens: int) -> None:
        self.limit_tokens = max_tokens
        self._client, self._servers = client, servers

    def learn(self, limit_tokens: object) -> None:
        """A server's word on its model's limit; only a lower one counts, and none that no model has."""
        if type(limit_tokens) is int and LEAST_TOKENS <= limit_tokens < self.limit_tokens:
            log.warning("the server's model takes less than SWITCHYARD_MAX_TOKENS", extra={"tokens": limit_tokens})
            self.limit_tokens = limit_tokens

    def fit(self, messages: Messages, max_new_tokens: int, *, ask: Ask) -> Messages:
        """See `Engine.fit`. No server is asked for a prompt that fits whatever its tokens are."""
        if at_most(messages) <= _room(self.limit_tokens, max_new_tokens):
            return messages
        ends_at = time.monotonic() + FIT_S

        def counted(messages: Messages) -> int:
            try:
                return ask(lambda: self._count(messages), ends_at - time.monotonic())
            except TimeoutError:
                raise NotCounted from None

        try:
            if counted(messages) <= _room(self.limit_tokens, max_new_tokens):
                return messages
            return self._trim(messages, max_new_tokens, counted)
        except NotCounted:
            return self._trim(messages, max_new_tokens, estimated)

    def shorten(self, answer: Answer, found: TooLong) -> None:
        """Take off what a server said is too much, once.

        Raises:
            RequestRejected: it was done already, or there is nothing to take off.
        """
        self.learn(found.limit_tokens)
        before, most = answer.messages, answer.max_new_tokens
        room = _room(self.limit_tokens, most)
        guess = estimated(before)
        # Without its number: twice the room, for more than the room it was.
        measured = found.prompt_tokens or max(guess, 2 * room)

        def scaled(messages: Messages) -> int:
            return math.ceil(_MARGIN * estimated(messages) * measured / guess)

        answer.messages = self._trim(before, most, scaled)
        answer.max_new_tokens = max(1, min(most, self.limit_tokens - scaled(answer.messages)))
        if answer.shortened or (answer.messages, answer.max_new_tokens) == (before, most):
            raise RequestRejected("the prompt is too long for the server's model")
        answer.shortened = True
        log.warning("prompt shortened, the server's context is smaller", extra={"limit_tokens": self.limit_tokens})

    def _trim(self, messages: Messages, max_new_tokens: int, measure: Callable[[Messages], int]) -> Messages:
        return fit_messages(messages, limit_tokens=self.limit_tokens, max_new_tokens=max_new_tokens, measure=measure)

    async def _count(self, messages: Messages) -> int:
        """By a server that can. Raises NotCounted."""
        for server in sorted(self._servers, key=lambda server: server.running):
            if server.counts_tokens is not False and server.takes(time.monotonic()):
                count = await self._count_at(server, messages)
                if count is not None:
                    return count
        raise NotCounted

    async def _count_at(self, server: Server, messages: Messages) -> int | None:
        try:
            said = await self._client.count(server, messages)
        except Failure as failure:
            if failure.blame in ("setting", "failed"):  # it has no such page, or not for this
                server.counts_tokens = False
            return None
        count = said.get("count")
        server.counts_tokens = type(count) is int and count > 0
        self.learn(said.get("max_model_len"))
        return count if type(count) is int and count > 0 else None


def _room(limit_tokens: int, max_new_tokens: int) -> int:
    """What the answer leaves for the prompt: as `fit_messages` has it."""
    return limit_tokens - min(max_new_tokens, limit_tokens // 2)
