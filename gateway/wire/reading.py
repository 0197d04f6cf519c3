"""JSON bodies into the structs of an endpoint, and what does not fit in a client's words."""

import re
from typing import Any, TypeVar

import msgspec

from gateway.core.errors import InvalidRequest, UnsupportedParameter

LONGEST_NAME = 200
"""Characters of a field's name that an error repeats."""

_UNKNOWN = re.compile(r"unknown field `([^`]*)`")
_PLACE = re.compile(r" - at `(?:key in )?\$\.?([^`]*)`")
_MISSING = re.compile(r"missing required field `([^`]*)`")
Body = TypeVar("Body")


def decode(decoder: msgspec.json.Decoder[Body], body: bytes | msgspec.Raw) -> Body:
    """The struct in a body. Raises InvalidRequest."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as problem:
        raise explain(str(problem)) from problem
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise InvalidRequest("The body is not valid JSON (or is nested too deeply).") from problem


def convert(value: Any, kind: type[Body], where: str) -> Body:
    """A struct from JSON that has been read already and stands at `where` in the body. Raises InvalidRequest."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as problem:
        raise explain(str(problem), where) from problem


def explain(problem: str, where: str = "") -> InvalidRequest:
    """msgspec's sentence in a client's words, with the place as `param`. Values are never in it."""
    place = _PLACE.search(problem)
    param = place[1][:LONGEST_NAME] if place and place[1] not in ("", "...") else None
    if where:
        param = f"{where}.{param}" if param else where
    sentence = problem[: place.start()] if place else problem
    if unknown := _UNKNOWN.search(problem):
        name = (f"{param}.{unknown[1]}" if param else unknown[1])[:LONGEST_NAME]  # the client chose it
        return UnsupportedParameter(f"Unsupported parameter: '{name}' is not known here.", param=name)
    if missing := _MISSING.search(problem):
        name = f"{param}.{missing[1]}" if param else missing[1]
        return InvalidRequest(f"Missing required parameter: '{name}'.", param=name)
    at = f"Invalid value for '{param}'" if param else "Invalid body"
    return InvalidRequest(f"{at}: {sentence.replace('`', '')}.", param=param)
