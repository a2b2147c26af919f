"""Tokens -> text: whole characters only, and never a part of a stop string."""

from collections.abc import Callable, Sequence

Decode = Callable[[list[int]], str]

HALF = "\ufffd"  # what a decoder writes for bytes that are no character (yet)


class Characters:
    """Turns tokens into text piece by piece. A character that spans tokens comes out when it is complete.

    The pieces joined are what the decoder makes of all tokens at once, without the replacement characters: bytes that
    never become a character are left out.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._window: list[int] = []  # tokens already out, kept as context, then tokens still held back
        self._out = 0  # how many of the window are out

    def add(self, token: int) -> str:
        """The text that this token completes; empty in the middle of a character."""
        self._window.append(token)
        before, now = self._decode(self._window[: self._out]), self._decode(self._window)
        if now.endswith(HALF):
            return ""
        if now != before:  # a token without text is no context: some decoders strip the blank that follows nothing
            self._window = self._window[self._out :]
        self._out = len(self._window)
        return now[len(before) :].replace(HALF, "")

    def flush(self) -> str:
        """What is held back, without the character that will not be completed."""
        before, now = self._decode(self._window[: self._out]), self._decode(self._window)
        self._window, self._out = [], 0
        return now[len(before) :].replace(HALF, "")


class StopStrings:
    """Lets text through until a stop string appears. What may be the beginning of one is held back."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def add(self, text: str) -> str:
        """The text that can be shown now. After `stopped` nothing more comes."""
        if self.stopped:
            return ""
        self._held += text
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            return self._take(min(found))
        return self._take(len(self._held) - self._suspicious())

    def flush(self) -> str:
        """What is held back, when it is certain that no stop string follows."""
        return "" if self.stopped else self._take(len(self._held))

    def _take(self, chars: int) -> str:
        shown, self._held = self._held[:chars], self._held[chars:]
        return shown

    def _suspicious(self) -> int:
        """How many characters at the end may be the beginning of a stop string."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for length in range(min(longest, len(self._held)), 0, -1):
            tail = self._held[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0
