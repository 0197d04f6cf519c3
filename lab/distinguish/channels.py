"""What two answers have in common, channel by channel, to the byte. Pure.

A channel is a part of an answer that a client can read. What differs between any two answers is masked first, by the
table MASKS and nothing else; its form stays. The order of frames is masked between choices (`in_order`).
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from lab.distinguish.client import Answer

MASKS: tuple[tuple[str, str, str], ...] = (
    ("the header x-request-id", r"(?im)^(x-request-id: req_)[0-9a-f]{32}$", r"\1<32>"),
    ("the header openai-processing-ms", r"(?im)^(openai-processing-ms: )\d+$", r"\1<ms>"),
    ("the header date", r"(?im)^(date: ).+$", r"\1<date>"),
    ("when limits are renewed", r"(?im)^(x-ratelimit-reset-\w+: )[0-9hms.]+$", r"\1<time>"),
    ("when limits are renewed", r"(;t=)\d+", r"\1<s>"),
    ("how long to wait", r"(?im)^(retry-after(?:-ms)?: )\d+$", r"\1<time>"),
    ("how long to wait", r"(Try again in )\d+( s)", r"\1<s>\2"),
    ("the id of an answer", r'("id":"(?:chatcmpl|cmpl)-)[0-9a-f]{32}"', r'\1<32>"'),
    ("the second of an answer", r'("created":)\d{10}\b', r"\g<1>0"),
    ("when limits are renewed", r'("reset_ms":)\d+', r"\g<1>0"),
)
"""What it is, what is found, what is put in its place."""

_MASKS = [(re.compile(pattern.encode()), by.encode()) for _, pattern, by in MASKS]
_LENGTH = re.compile(rb"(?im)^content-length: (\d+)$")
_CHOICE = re.compile(rb'"index":(\d+)')
_LIMITS = ("x-ratelimit-", "ratelimit", "retry-after", "x-should-retry")
_COUNTS = ("usage", "num_input_tokens", "num_output_tokens")

Observed = dict[str, object]
"""Channel -> what the client reads there."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One pair that differs in one channel."""

    pair: int
    kind: str
    clean: str
    contained: str


class Channel(msgspec.Struct, frozen=True, kw_only=True):
    """A channel over all pairs."""

    name: str
    compared: int
    differing: int
    kinds: tuple[str, ...]
    """Kinds of request in which it differs."""
    first: Difference | None


def masked(data: bytes) -> bytes:
    """With MASKS in place."""
    for pattern, by in _MASKS:
        data = pattern.sub(by, data)
    return data


def observe(answer: Answer, own_texts: Iterable[str] = ()) -> Observed:
    """Every channel of an answer. The client's own words in it (`own_texts`) are no difference between two keys."""
    lines = [line.decode("latin-1") for line in masked(_head(answer)).split(b"\n")]
    fields = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines[1:])]
    body = masked(answer.body)
    for text in own_texts:
        body = body.replace(json.dumps(text)[1:-1].encode(), b"<own>").replace(text.encode(), b"<own>")
    stream = any(name.lower() == "content-type" and "event-stream" in value for name, value in fields)
    frames = in_order(body.split(b"\n\n")) if stream else [body]
    documents = [parsed for frame in frames if (parsed := _json(frame)) is not None]
    leaves = [list(_leaves(document)) for document in documents]
    return {
        "status": lines[0],
        "header set": sorted(name.lower() for name, _ in fields),
        "header order": [name.lower() for name, _ in fields],
        "header case": [name for name, _ in fields],
        "header values": sorted(f"{name}: {value}" for name, value in fields if not _is_limit(name)),
        "limits told": sorted(f"{name}: {value}" for name, value in fields if _is_limit(name)),
        "body keys": [[path for path, _ in one] for one in leaves],
        "usage": [f"{path}={value}" for one in leaves for path, value in one if _is_count(path)],
        "ids": [value for one in leaves for path, value in one if path.rpartition(".")[2] == "id"],
        "finish reasons": [value for one in leaves for path, value in one if path.endswith("finish_reason")],
        "log probabilities": [f"{path}={value}" for one in leaves for path, value in one if "logprobs" in path],
        "errors": [f"{path}={value}" for one in leaves for path, value in one if path.startswith("error")],
        "frames": len(frames),
        "frame sizes": [len(frame) for frame in frames],
        "body": b"\n\n".join(frames).decode("utf-8", "replace"),
    }


def in_order(frames: list[bytes]) -> list[bytes]:
    """Frames of several choices come as they are generated, in any order: here choice by choice."""
    numbers = [int(found[1]) if (found := _CHOICE.search(frame)) else None for frame in frames]
    if not any(numbers):
        return frames
    told = sorted((number, at) for at, number in enumerate(numbers) if number is not None)
    return [frames[at] for _, at in told] + [frames[at] for at, number in enumerate(numbers) if number is None]


class Comparison:
    """All pairs, channel by channel."""

    def __init__(self) -> None:
        self._compared: dict[str, int] = {}
        self._differing: dict[str, int] = {}
        self._first: dict[str, Difference] = {}
        self._kinds: dict[str, set[str]] = {}

    def add(self, pair: int, kind: str, clean: Mapping[str, object], contained: Mapping[str, object]) -> None:
        """One more pair."""
        for name, value in clean.items():
            self._compared[name] = self._compared.get(name, 0) + 1
            other = contained[name]
            if value != other:
                self._differing[name] = self._differing.get(name, 0) + 1
                self._kinds.setdefault(name, set()).add(kind)
                one, two = shown(value, other)
                self._first.setdefault(name, Difference(pair=pair, kind=kind, clean=one, contained=two))

    def channels(self) -> list[Channel]:
        """The verdict on each."""
        return [
            Channel(
                name=name,
                compared=compared,
                differing=self._differing.get(name, 0),
                kinds=tuple(sorted(self._kinds.get(name, ()))),
                first=self._first.get(name),
            )
            for name, compared in self._compared.items()
        ]


def shown(one: object, other: object, width: int = 60) -> tuple[str, str]:
    """The place where two values part, and a little around it."""
    first, second = _text(one), _text(other)
    at = next((n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second)))
    start = max(0, at - width // 2)
    before = "…" if start else ""
    return before + first[start : start + width], before + second[start : start + width]


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _head(answer: Answer) -> bytes:
    """The head, its length masked where it is the body's: a number that is masked may have more digits."""
    right = b"%d" % len(answer.body)
    head = answer.head.replace(b"\r\n", b"\n")
    return _LENGTH.sub(lambda found: b"content-length: <right>" if found[1] == right else found[0], head)


def _is_limit(name: str) -> bool:
    return name.lower().startswith(_LIMITS)


def _is_count(path: str) -> bool:
    return path.startswith(_COUNTS)


def _json(frame: bytes) -> Any:
    try:
        return json.loads(frame.removeprefix(b"data: "), object_pairs_hook=_Pairs)
    except ValueError:
        return None


class _Pairs(list[tuple[str, Any]]):
    """An object in the order of its keys."""


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, object]]:
    """(path, value) of everything in a document, in order; of what is empty the path alone."""
    if isinstance(value, _Pairs):
        if not value:
            yield path + "{}", ""
        for key, inner in value:
            yield from _leaves(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        if not value:
            yield path + "[]", ""
        for at, inner in enumerate(value):
            yield from _leaves(inner, f"{path}[{at}]")
    else:
        yield path, value
