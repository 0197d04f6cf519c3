"""From token bytes to text that may be sent: whole UTF-8 characters, and nothing that could begin a stop string."""

import codecs


class OutputText:
    """The text of one output. `feed` takes token bytes and gives the text that is now certain."""

    def __init__(self, stop: tuple[str, ...] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = stop
        self._held = ""
        self.stopped = False
        """A stop string has been met; the text before it has been given, it and what follows never will be."""

    def feed(self, data: bytes, *, check_stop: bool = True) -> str:
        """The text to send after these bytes; empty while a character or a stop string may still be incomplete."""
        text = self._held + self._decoder.decode(data)
        if not check_stop:
            self._held = ""
            return text
        found = [place for place in map(text.find, self._stop) if place >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        return self._hold(text)

    def finish(self) -> str:
        """What was held back, when no more bytes come; an incomplete character becomes U+FFFD."""
        if self.stopped:
            return ""
        text, self._held = self._held + self._decoder.decode(b"", final=True), ""
        return text

    def _hold(self, text: str) -> str:
        """Keep back the longest end of `text` that some stop string begins with."""
        longest = max((len(stop) for stop in self._stop), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            end = text[-length:]
            if any(stop.startswith(end) for stop in self._stop):
                self._held = end
                return text[:-length]
        self._held = ""
        return text
