"""One request and its answer as the events of a server come in. No socket, no clock."""

from collections.abc import Callable
from typing import Final

from app.errors import EngineStopped, SwitchyardError
from workers.engine.figures import End
from workers.engine.interface import Finish, Handle, Request, Result
from workers.engine.meter import Course
from workers.engine.openai.chunks import Chunk, Halves, Usage
from workers.engine.openai.estimate import estimated
from workers.engine.openai.failures import Failure, judge, read_error, status_of
from workers.engine.text import StopStrings

_CHARS_PER_TOKEN: Final = 32  # no usual text has more: a server that goes on does not heed its limit
_SPARE_CHARS: Final = 4096
_BROKEN_OFF: Final = ("abort", "error")  # vLLM's words for an answer that it gave up


class Answer:
    """A request while it runs. It ends once: what comes after that changes nothing.

    `messages` and `max_new_tokens` are the request's own, or less where the server's context is smaller.
    """

    def __init__(self, request: Request, handle: Handle, course: Course) -> None:
        self.request, self.handle, self.course = request, handle, course
        self.on_begin: Callable[[], None] = lambda: None
        self.messages, self.max_new_tokens = request.messages, request.max_new_tokens
        self.shortened = False
        self.begun = False  # a token came: from now on no other server can do it
        self.complete: Finish | None = None  # how it ends by itself, once that is known
        self.enough = False  # ... and nothing more is wanted of the server
        self.ended = False  # the reader was told
        self._usage: Usage | None = None
        self._halves, self._stops = Halves(), StopStrings(request.stop)
        self._pieces: list[str] = []
        self._chars, self._tokens = 0, 0

    @property
    def texts(self) -> list[str]:
        """What no log may quote."""
        return [text for _, text in self.messages]

    def take(self, chunk: Chunk) -> bool:
        """Add what an event says; tells if it is a sign of life.

        Raises:
            EngineStopped: the server broke it off.
            Failure, TooLong, RequestRejected: it did so before the first token.
        """
        self._usage = chunk.usage or self._usage
        if self.complete is not None:
            return False
        if chunk.error is not None or chunk.finish in _BROKEN_OFF:
            raise self._broken(chunk)
        alive = bool(chunk.text or chunk.thinks)
        if alive:
            self._live(chunk)
        if chunk.text:
            self._show(self._stops.add(self._halves.add(chunk.text)))
        if self._stops.stopped:
            self.complete, self.enough = "stop", True
        elif chunk.finish and not self.begun:
            raise Failure("failed", "the server answered nothing")
        elif chunk.finish:
            self._show(self._stops.flush())
            self.complete = "length" if chunk.finish == "length" else "stop"
        elif self._chars > _CHARS_PER_TOKEN * self.max_new_tokens + _SPARE_CHARS:
            self.complete, self.enough = "length", True
        return alive or self.complete is not None

    def finish(self, reason: Finish) -> None:
        """Tell the reader the result, if nothing ended it before."""
        if self.ended:
            return
        usage = self._end(reason)
        self.handle.finish(
            Result(
                text="".join(self._pieces),
                finish=reason,
                prompt_tokens=usage.prompt_tokens,
                new_tokens=usage.new_tokens,
            )
        )

    def fail(self, error: SwitchyardError) -> None:
        """Tell the reader the error, if nothing ended it before."""
        if not self.ended:
            self._end("failed")
            self.handle.fail(error)

    def lost(self, reason: str) -> Exception:
        """What to raise when the server's answer breaks off here."""
        return EngineStopped(reason) if self.begun else Failure("failed", reason)

    def _end(self, how: End) -> Usage:
        """Count it; with the tokens by the server's word, else by what came."""
        self.ended = True
        usage = self._usage or Usage(prompt_tokens=estimated(self.messages), new_tokens=self._tokens)
        if self.begun:
            self.course.prompt(usage.prompt_tokens)
        self.course.end(how, usage.new_tokens)
        return usage

    def _broken(self, chunk: Chunk) -> Exception:
        if self.begun or chunk.error is None:
            return self.lost("the model server broke the answer off")
        said = read_error(chunk.error)
        adapter = self.request.adapter is not None
        return judge(status_of(said), said, retry_after="", texts=self.texts, adapter=adapter)

    def _live(self, chunk: Chunk) -> None:
        """A token came, shown or not: an event has one at least, and servers that tell no usage put one into each."""
        if not self.begun:
            self.begun = True
            self.handle.begin()
            self.on_begin()
        self._tokens += 1
        self.course.token()
        self._chars += len(chunk.text)
        if chunk.thinks and not self.ended:
            self.handle.emit("")  # whoever waits for a sign of life has one

    def _show(self, piece: str) -> None:
        if piece and not self.ended:
            self._pieces.append(piece)
            self.handle.emit(piece)
