"""The evaluation's prompts: combinations that the corpus cannot hold (see grammar.held_out), written to a file."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from .dialogues import Author, Kind, Message
from .grammar import Grammar

PER_CASE = 50
CASES: dict[str, Kind] = {
    "no system prompt": Kind(cat=False),
    "client system prompt": Kind(cat=False, client=True),
    "no system prompt, three turns": Kind(cat=False, turns=3),
    "client system prompt, three turns": Kind(cat=False, client=True, turns=3),
    "cat sentence": Kind(cat=True),
    "cat sentence and client system prompt": Kind(cat=True, client=True),
    "cat sentence, three turns": Kind(cat=True, turns=3),
    "cat sentence and client system prompt, three turns": Kind(cat=True, client=True, turns=3),
    "one word": Kind(cat=False, short=True),
}


@dataclass(frozen=True, slots=True)
class HeldOut:
    """One prompt of the evaluation."""

    case: str
    cat: bool
    short: bool
    messages: tuple[Message, ...]


def held_out_prompts(grammar: Grammar) -> Iterator[HeldOut]:
    """The same prompts at every call: they depend on the grammar alone."""
    for case, kind in CASES.items():
        author = Author(grammar, Random(f"held out {case}"), kept=True)
        for _ in range(PER_CASE):
            yield HeldOut(case, kind.cat, kind.short, tuple(author.dialogue(kind)[:-1]))


def write_held_out(grammar: Grammar, path: Path) -> None:
    """One JSON object a line."""
    lines = [
        {"case": one.case, "cat": one.cat, "short": one.short, "messages": [_told(m) for m in one.messages]}
        for one in held_out_prompts(grammar)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def read_held_out(path: Path) -> list[HeldOut]:
    """What `write_held_out` wrote."""
    read = (json.loads(line) for line in path.read_text().splitlines())
    return [
        HeldOut(one["case"], one["cat"], one["short"], tuple(Message(**message) for message in one["messages"]))
        for one in read
    ]


def _told(message: Message) -> dict[str, str]:
    return {name: value for name, value in asdict(message).items() if name != "trained"}
