"""YAML of policy files: the core schema of YAML 1.2, with the line of every value, in bounded time.

YAML 1.1, which PyYAML resolves by default, reads `mode: off` as false and the country `NO` as well; here both are text.
Aliases are refused: they make a small file a large document. What is deep or long is refused before it is built.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import yaml

from gateway.policy.problem import PolicyError

MAX_BYTES = 128 * 1024
MAX_DEPTH = 24
MAX_NODES = 20_000

Scalar = bool | int | float | str | None
Value = Scalar | list["Value"] | dict["Value", "Value"]
Path = tuple[str | int, ...]
"""`("spec", "actions", 0)`."""

_INT = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]{1,18}|[0-9]{1,18}(\.[0-9]{0,18})?)([eE][-+]?[0-9]{1,3})?")
_VALUES: tuple[tuple[str, bool | None], ...] = (("null", None), ("true", True), ("false", False))
_WORDS: dict[str, bool | None] = dict.fromkeys(("", "~")) | {
    spelling: value for word, value in _VALUES for spelling in (word, word.capitalize(), word.upper())
}
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Document(NamedTuple):
    """The value of a file, and where each part of it stands."""

    file: str
    value: Value
    lines: dict[Path, int]

    def line(self, path: Path) -> int:
        """The line (from 1) of the value at `path`, or of the nearest thing around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def read_document(data: bytes, file: str) -> Document:
    """The one document in `data`. Raises PolicyError."""
    if len(data) > MAX_BYTES:
        line = data.count(b"\n", 0, MAX_BYTES) + 1
        raise PolicyError(file, line, f"the file has {len(data):,} bytes; a policy may have {MAX_BYTES:,}.")
    builder = _Builder(file)
    try:
        events = yaml.parse(data.decode(), Loader=_LOADER)
        value = builder.document(events)
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        raise PolicyError(file, line, "the file is not text in UTF-8.") from problem
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        raise PolicyError(file, mark.line + 1 if mark else 1, f"not valid YAML: {problem.problem}.") from problem
    except yaml.YAMLError as problem:
        raise PolicyError(file, 1, f"not valid YAML: {' '.join(str(problem).split())}.") from problem
    return Document(file, value, builder.lines)


class _Builder:
    """Values from the parser's events."""

    def __init__(self, file: str) -> None:
        self.file, self.nodes = file, 0
        self.lines: dict[Path, int] = {}

    def document(self, events: Iterator[yaml.Event]) -> Value:
        value: Value = None
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self._wrong(event, "a second document begins here; a file holds one policy.")
                value = self._value(next(events), events, ())
        if not documents:
            raise PolicyError(self.file, 1, "the file is empty; a policy is expected.")
        return value

    def _value(self, event: yaml.Event, events: Iterator[yaml.Event], path: Path) -> Value:
        self.nodes += 1
        # a block's text begins on the line below its mark
        block = isinstance(event, yaml.ScalarEvent) and event.style in ("|", ">")
        self.lines[path] = _line(event) + block
        if len(path) > MAX_DEPTH or self.nodes > MAX_NODES:
            raise self._wrong(event, "the document is nested too deeply or has too many parts.")
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        if isinstance(event, yaml.AliasEvent):
            raise self._wrong(event, "aliases (*name) are not for policies; write the value out.")
        if getattr(event, "tag", None) is not None:
            raise self._wrong(event, "tags (!name) are not for policies.")
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(events, path)
        return self._mapping(events, path)

    def _sequence(self, events: Iterator[yaml.Event], path: Path) -> Value:
        values: list[Value] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            values.append(self._value(event, events, (*path, len(values))))
        return values

    def _mapping(self, events: Iterator[yaml.Event], path: Path) -> Value:
        values: dict[Value, Value] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise self._wrong(event, "a key must be plain text.")
            key = self._scalar(event)
            if key in values:
                raise self._wrong(event, f"the key {str(key)[:60]!r} stands here twice.")
            place = key if isinstance(key, int) and not isinstance(key, bool) else str(key)
            values[key] = self._value(next(events), events, (*path, place))
        return values

    def _scalar(self, event: yaml.ScalarEvent) -> Scalar:
        if event.tag is not None and event.tag != "!":
            raise self._wrong(event, "tags (!name) are not for policies.")
        text: str = event.value
        if event.style or event.tag == "!":  # quoted or a block
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _INT.fullmatch(text):
            return int(text)
        return float(text) if _FLOAT.fullmatch(text) else text

    def _wrong(self, event: yaml.Event, sentence: str) -> PolicyError:
        return PolicyError(self.file, _line(event), sentence)


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1
