"""Whether the contained key's prompts were rewritten at all, and the clean one's never: by what the upstream received.
Without it a run proves nothing. Pure."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from lab.distinguish.upstream import Received

MARK = "Q:"
"""What every text of the attacker's begins with."""
LONG = 64
"""Characters of a text that nobody else's begins with."""


class Sent(NamedTuple):
    """A request that the model was to read: whose, by which road, and the texts as they were before anything."""

    contained: bool
    path: str
    texts: tuple[str, ...]


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """Generations that the upstream read, by path; and how many of them were not what the client had sent."""

    clean: dict[str, int]
    clean_touched: dict[str, int]
    contained: dict[str, int]
    contained_touched: dict[str, int]

    @property
    def problems(self) -> list[str]:
        """In sentences; none where the contained key's were all rewritten and the clean one's never."""
        found = [f"{path}: {n} prompts of the clean key were touched." for path, n in self.clean_touched.items()]
        if not self.contained:
            return [*found, "The upstream read nothing of the contained key: nothing is proven."]
        for path, read in self.contained.items():
            if left := read - self.contained_touched.get(path, 0):
                found.append(f"{path}: {left} of {read} prompts of the contained key were not rewritten.")
        return found


def prove(sent: Iterable[Sent], received: Iterable[Received]) -> Proof:
    """Hold what came against what was sent."""
    read: dict[str, list[str]] = defaultdict(list)
    for one in received:
        if (name := _name(one.text)) is not None:
            read[name].append(one.text)
    counts: dict[bool, Counter[str]] = {False: Counter(), True: Counter()}
    touched: dict[bool, Counter[str]] = {False: Counter(), True: Counter()}
    for contained, path, texts in _grouped(sent):
        for name in {_name(text) for text in texts} - {None}:
            for text in read.pop(str(name), []):
                counts[contained][path] += 1
                touched[contained][path] += text not in texts
    return Proof(
        clean=dict(counts[False]),
        clean_touched=dict(touched[False] + Counter()),
        contained=dict(counts[True]),
        contained_touched=dict(touched[True]),
    )


def _grouped(sent: Iterable[Sent]) -> list[tuple[bool, str, set[str]]]:
    """The turns of a chat begin alike: what begins alike is looked at together."""
    groups: dict[Sequence[str | None], tuple[bool, str, set[str]]] = {}
    for one in sent:
        names = tuple(_name(text) for text in one.texts)
        groups.setdefault(names, (one.contained, one.path, set()))[2].update(one.texts)
    return list(groups.values())


def _name(text: str) -> str | None:
    """What a text of the attacker's is known by, wherever it stands."""
    at = text.find(MARK)
    return text[at : at + LONG] if at >= 0 else None
