"""Server-sent events out of bytes: strict and bounded, with no socket and no clock.

Source: HTML Standard, 9.2.5 "Parsing an event stream". We are stricter: a line that is no field of it is an error, for
then it is some other page that came.
"""

import re
from typing import Final

LIMIT_BYTES: Final = 262_144  # of a line and of an event: a chunk of an answer has a few hundred
_END: Final = re.compile(rb"\r\n|\n|\r")
_FIELDS: Final = frozenset((b"data", b"event", b"id", b"retry"))
_BOM: Final = b"\xef\xbb\xbf"


class Unreadable(Exception):
    """What a server sent is not what this protocol allows, or larger. Never quotes it."""


class Events:
    """Feed it the bytes as they come, cut anywhere, also inside a character."""

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._buffer = bytearray()
        self._searched = 0  # so far there is no end of a line in the buffer
        self._data: list[str] = []
        self._size = 0
        self._first = True

    def feed(self, chunk: bytes) -> list[str]:
        """The data of each event that these bytes complete. Raises Unreadable."""
        self._buffer += chunk
        found = []
        while (line := self._line()) is not None:
            data = self._take(line)
            if data is not None:
                found.append(data)
        if len(self._buffer) > self._limit_bytes:
            raise Unreadable(f"a line has more than {self._limit_bytes} bytes")
        return found

    def _line(self) -> bytes | None:
        end = _END.search(self._buffer, self._searched)
        if end is None:
            self._searched = len(self._buffer)
            return None
        if end.group() == b"\r" and end.end() == len(self._buffer):  # perhaps the first half of \r\n
            self._searched = end.start()
            return None
        line = bytes(self._buffer[: end.start()])
        del self._buffer[: end.end()]
        self._searched = 0
        if self._first:
            self._first, line = False, line.removeprefix(_BOM)
        return line

    def _take(self, line: bytes) -> str | None:
        """What this line does to the event; the event's data if it ends here."""
        if not line:
            data, self._data, self._size = self._data, [], 0
            return "\n".join(data) if data else None
        name, _, value = line.partition(b":")
        if name == b"data":
            self._size += len(value)
            if self._size > self._limit_bytes:
                raise Unreadable(f"an event has more than {self._limit_bytes} bytes")
            try:
                self._data.append(value.removeprefix(b" ").decode())
            except UnicodeDecodeError:
                raise Unreadable("an event is not UTF-8") from None
        elif name and name not in _FIELDS:  # without a name it is a comment
            raise Unreadable("a line is no field of an event stream")
        return None
