"""What evidence is made of, each part of it bounded."""

from typing import NamedTuple

import msgspec

MAX_TEXT = 256 << 10
"""Bytes of a prompt, or characters of an answer, that are kept."""
MAX_ANSWERS = 8
MAX_PACKED = 16 << 20
"""Bytes of a content, packed: ten texts of four bytes a character, and room to spare."""


class Evidence(NamedTuple):
    """One contained request: what was asked and what was sent in its place (each a Prompt as JSON), and what was
    answered."""

    request: str
    organisation: str
    principal: str
    at_ms: int
    asked: bytes
    sent: bytes
    answers: tuple[str, ...]


class Text(msgspec.Struct, frozen=True, array_like=True):
    """A text as it is kept; `left_out`: how many of its last bytes (prompts) or characters (answers) are not."""

    text: str
    left_out: int = 0


class Content(msgspec.Struct, frozen=True, array_like=True):
    """What is encrypted. `answers_left_out`: how many answers are not in it."""

    asked: Text
    sent: Text
    answers: tuple[Text, ...]
    answers_left_out: int = 0


class Bounded(NamedTuple):
    """Evidence cut to its bounds; `whole`: how long each text was; `size`: bytes of memory that it holds."""

    evidence: Evidence
    whole: tuple[int, ...]
    answers: int
    size: int

    def content(self) -> Content:
        """What is to be encrypted."""
        texts = (*map(_read, (self.evidence.asked, self.evidence.sent)), *map(_whole, self.evidence.answers))
        asked, sent, *answers = (
            Text(text, max(0, length - MAX_TEXT)) for text, length in zip(texts, self.whole, strict=True)
        )
        return Content(asked, sent, tuple(answers), self.answers - len(answers))


def bounded(evidence: Evidence) -> Bounded:
    """The evidence with its texts cut. Cheap: nothing is encoded or decoded."""
    answers = evidence.answers[:MAX_ANSWERS]
    cut = evidence._replace(
        asked=evidence.asked[:MAX_TEXT],
        sent=evidence.sent[:MAX_TEXT],
        answers=tuple(answer[:MAX_TEXT] for answer in answers),
    )
    # a character takes up to four bytes; 1,000 for all the rest
    size = 1000 + len(cut.asked) + len(cut.sent) + 4 * sum(map(len, cut.answers))
    whole = tuple(map(len, (evidence.asked, evidence.sent, *answers)))
    return Bounded(cut, whole, len(evidence.answers), size)


def _read(data: bytes) -> str:
    """UTF-8, perhaps cut within a letter."""
    return data.decode(errors="replace")


def _whole(text: str) -> str:
    """The text without halves of characters, which no encoding takes."""
    return text.encode(errors="replace").decode()
