"""Server-sent events, as bytes: `Decoder.feed(bytes) -> payloads`, and the frames that we send.

The format is the WHATWG HTML standard's, "Server-sent events". Only `data` matters here; other fields are passed over.
"""

from gateway.core.errors import UpstreamFailed

MAX_EVENT_BYTES = 1 << 20
DONE = b"data: [DONE]\n\n"

_OPEN, _BETWEEN, _CLOSE = b"data: ", b"\n\ndata: ", b"\n\n"


class Decoder:
    """Turns a stream of bytes, however it is cut, into the data of its events.

    Servers send whole events, one line each, nearly always: `_whole` splits such a read at once. Anything else goes
    through the line parser, which keeps what is unfinished for the next read.
    """

    __slots__ = ("_after_cr", "_data", "_line", "_max", "_size", "_start")

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._line = b""  # an unfinished line
        self._data: list[bytes] = []  # the data lines of an unfinished event
        self._size = 0  # of both
        self._after_cr = False  # a line feed that comes next belongs to the line that has ended already
        self._start = True  # nothing has been read yet: a byte order mark may stand here
        self._max = max_event_bytes

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of each event that `chunk` completes. Raises UpstreamFailed when an event grows past the bound."""
        if not self._line and not self._data and not self._after_cr and len(chunk) <= self._max:
            events = _whole(chunk)
            if events is not None:
                self._start = False
                return events
        return self._parse(chunk)

    def _parse(self, chunk: bytes) -> list[bytes]:
        if self._after_cr and chunk:
            self._after_cr = False
            chunk = chunk.removeprefix(b"\n")
        text = self._line + chunk
        if self._start and text:
            if len(text) < 3 and b"\xef\xbb\xbf".startswith(text):
                self._line = text
                return []
            text, self._start = text.removeprefix(b"\xef\xbb\xbf"), False
        self._after_cr = text.endswith(b"\r")
        *lines, self._line = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        events = []
        for line in lines:
            event = self._end_of_line(line)
            if event is not None:
                events.append(event)
        if self._size + len(self._line) > self._max:
            raise UpstreamFailed("The model's server sent an event that is too large.", detail="sse event over bound")
        return events

    def _end_of_line(self, line: bytes) -> bytes | None:
        """The event's data where `line` is the empty line that ends it, else None."""
        if line:
            field, _, value = line.partition(b":")
            if field == b"data":
                value = value.removeprefix(b" ")
                self._data.append(value)
                self._size += len(value) + 1
            return None
        if not self._data:
            return None
        event = b"\n".join(self._data)
        self._data.clear()
        self._size = 0
        return event


def _whole(chunk: bytes) -> list[bytes] | None:
    """The events of a chunk that is nothing but whole one-line events in the usual spelling, else None."""
    if not chunk.startswith(_OPEN) or not chunk.endswith(_CLOSE) or b"\r" in chunk:
        return None
    lines = chunk.count(b"\n")
    if lines == 2:
        return [chunk[6:-2]]
    events = chunk[6:-2].split(_BETWEEN)
    return events if lines == 2 * len(events) else None


def frame(data: bytes) -> bytes:
    """One event that carries `data` (one line)."""
    return _OPEN + data + _CLOSE
