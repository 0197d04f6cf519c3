"""The attacker: pairs of requests with two keys in turn, and what is seen of them."""

import asyncio
import random
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from lab.bench.errors import BenchError
from lab.distinguish.asks import Ask, Draw, Kind
from lab.distinguish.channels import Channel, Comparison, observe
from lab.distinguish.classify import Judged, judge, middle_and_error, smallest_delay
from lab.distinguish.client import Answer, Connection
from lab.distinguish.features import DELAYED, FEATURES, features
from lab.distinguish.kinds import BAD, EDGES, ORDINARY, SWEEP, UNTIL_REFUSED
from lab.distinguish.leaks import TIMING, Leak, Proxy
from lab.distinguish.place import OPEN, TIGHT, Place, Tokens
from lab.distinguish.proof import Sent

ATTACK, NULL = "attack", "null"
TIMED_CONTROL = 200
"""Pairs of the control whose leak is one of time."""
SHARED = 150
"""Pairs with the same prompt, of each pair of keys."""
TOKEN = FEATURES.index("first token")
SWEPT = 8
"""About one pair in so many is of the sweep."""

DELAYS_MS = (0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0, 3.0)

Keys = dict[str, Tokens]
"""Plan -> a pair of keys."""


class Slot(NamedTuple):
    """A place in the order of pairs."""

    kind: Kind
    seed: str
    turn: int = 0
    tight: bool = False
    timed: bool = False


class Attack(msgspec.Struct, frozen=True, kw_only=True):
    """What an attacker found of two keys."""

    pairs: int
    timed: int
    channels: list[Channel]
    classifiers: list[Judged]
    shifts: dict[str, tuple[float, float]]
    """Feature -> the median of the contained key's less the clean one's, and about its standard error."""
    by_kind: dict[str, tuple[float, float]]
    """Kind -> the same of the first token alone."""
    would_find_ms: float | None = None
    """The smallest of DELAYS_MS that would have been told in this noise; None where none would, or nobody asked."""

    @property
    def differing(self) -> list[Channel]:
        return [one for one in self.channels if one.differing]

    @property
    def told_apart(self) -> bool:
        return bool(self.differing) or any(one.tells for one in self.classifiers)


class Control(msgspec.Struct, frozen=True, kw_only=True):
    """A known leak, where it had to be found, and whether it was."""

    leak: str
    channel: str
    pairs: int
    found: bool


def schedule(pairs: int, seed: str) -> list[Slot]:
    """The order of the pairs: every kind of the sweep among ordinary ones, a sweep and 40 at least; then the keys of a
    tight plan until it is used up."""
    sweeps = max(1, pairs // (SWEPT * len(SWEEP)))
    swept = [Slot(kind, f"{seed} {kind.name} {n}") for n in range(sweeps) for kind in SWEEP]
    tight = [Slot(kind, f"{seed} tight {n}", tight=True) for n, kind in enumerate(UNTIL_REFUSED)]
    return mixed(max(pairs - len(swept), 40), seed, swept) + tight


def mixed(ordinary: int, seed: str, swept: Sequence[Slot] = ()) -> list[Slot]:
    """So many ordinary pairs, and the others among them in any order; the turns of a chat follow each other."""
    chance = random.Random(seed)
    units = [[slot] for slot in swept]
    while ordinary > 0:
        kind = chance.choices(ORDINARY, [one.weight for one in ORDINARY])[0]
        units.append([Slot(kind, f"{seed} ordinary {ordinary}", turn, timed=True) for turn in range(kind.turns)])
        ordinary -= kind.turns
    chance.shuffle(units)
    return [slot for unit in units for slot in unit]


class Timed(NamedTuple):
    """The numbers of the timed pairs: the first answer's less the second's."""

    rows: list[list[float]]
    contained_first: list[bool]
    kinds: list[str]

    def of(self, kind: str) -> "Timed":
        """Those of one kind."""
        chosen = [at for at, name in enumerate(self.kinds) if name == kind]
        return Timed([self.rows[at] for at in chosen], [self.contained_first[at] for at in chosen], [kind])

    def shift(self, at: int) -> tuple[float, float]:
        """How far one of the contained key's numbers lies from the clean one's."""
        both = zip(self.rows, self.contained_first, strict=True)
        return middle_and_error([row[at] if first else -row[at] for row, first in both])


class Attacker:
    """Asks with two keys, one request after the other."""

    def __init__(self, place: Place, seed: int) -> None:
        self._place = place
        self._seed = seed
        self.sent: list[Sent] = []
        """By the ATTACK: what the upstream is to have read."""

    async def attack(self, name: str, keys: Keys, slots: Sequence[Slot], port: int = 0) -> Attack:
        """All pairs. Raises BenchError."""
        comparison = Comparison()
        timed = await self._ask_all(name, keys, slots, comparison, port=port)
        return Attack(
            pairs=len(slots),
            timed=len(timed.rows),
            channels=comparison.channels(),
            classifiers=judge(timed.rows, timed.contained_first),
            shifts={feature: timed.shift(at) for at, feature in enumerate(FEATURES)},
            by_kind={kind: timed.of(kind).shift(TOKEN) for kind in dict.fromkeys(timed.kinds)},
            would_find_ms=self._would_find(timed) if name in (ATTACK, NULL) else None,
        )

    def _would_find(self, timed: Timed) -> float | None:
        """By labels drawn anew, so that what is there already does not help: the noise is this attack's own."""
        chance = random.Random(self._seed)
        drawn = [chance.random() < 0.5 for _ in timed.rows]
        return smallest_delay(timed.rows, drawn, DELAYED, DELAYS_MS)

    async def control(self, leak: Leak) -> Control:
        """Whether a leak is found between two clean keys."""
        seed, timing = f"{self._seed} {leak.name}", leak.channel == TIMING
        kinds = (*EDGES, *BAD) if leak.channel == "errors" else EDGES
        swept = [Slot(kind, seed + kind.name) for kind in kinds]
        keys = self._place.clean_keys
        async with Proxy(self._place.port, leak, keys[OPEN][1]).open() as proxy:
            slots = mixed(TIMED_CONTROL, seed) if timing else mixed(0, seed, swept)
            found = await self.attack(leak.name, keys, slots, proxy.port)
        differing = {one.name for one in found.differing}
        seen = any(one.tells for one in found.classifiers) if timing else leak.channel in differing
        return Control(leak=leak.name, channel=leak.channel, pairs=found.pairs, found=seen)

    async def shared(self) -> list[Judged]:
        """The same prompt with both keys, of a contained and a clean one or of two clean ones: which was it?"""
        rows: list[tuple[list[float], bool]] = []
        for name, keys, contained in (
            ("shared, contained", self._place.contained_keys, True),
            ("shared, clean", self._place.clean_keys, False),
        ):
            slots = mixed(SHARED, f"{self._seed} {name}")
            timed = await self._ask_all(name, keys, slots, Comparison(), shared=True)
            rows += [(row, contained) for row in timed.rows]
        random.Random(self._seed).shuffle(rows)
        return judge([row for row, _ in rows], [contained for _, contained in rows])

    async def _ask_all(
        self,
        name: str,
        keys: Keys,
        slots: Sequence[Slot],
        comparison: Comparison,
        *,
        port: int = 0,
        shared: bool = False,
    ) -> Timed:
        """In a thread, with sockets of its own. Raises BenchError."""
        try:
            lines = Connection(port or self._place.port), Connection(port or self._place.port)
            return await asyncio.to_thread(self._asked, name, keys, slots, comparison, lines, shared)
        except (OSError, EOFError) as problem:
            raise BenchError(f"The gateway gave no answer in the attack {name!r}: {problem!r}.") from problem

    def _asked(
        self,
        name: str,
        keys: Keys,
        slots: Sequence[Slot],
        comparison: Comparison,
        lines: tuple[Connection, Connection],
        shared: bool,
    ) -> Timed:
        chance = random.Random(f"{self._seed} {name} order")
        timed = Timed([], [], [])
        for number, slot in enumerate(slots):
            sides = (0, 0) if shared else (0, 1)
            asks = [slot.kind.make(Draw(slot.seed, side, slot.turn, self._place.rooms)) for side in sides]
            first = chance.randrange(2)
            answers: dict[int, Answer] = {}
            for side in (first, 1 - first):
                token = keys[TIGHT if slot.tight else OPEN][side]
                answers[side] = lines[side].ask(asks[side].bytes_for(token))
            if name == ATTACK:
                self.sent += [Sent(side == 1, asks[side].path, asks[side].texts) for side in (0, 1) if asks[side].texts]
            observed = [observe(answers[side], _words(asks[side])) for side in (0, 1)]
            comparison.add(number, slot.kind.name, *observed)
            if slot.timed:
                one, two = features(answers[first]), features(answers[1 - first])
                timed.rows.append([a - b for a, b in zip(one, two, strict=True)])
                timed.contained_first.append(first == 1)
                timed.kinds.append(slot.kind.name)
        for line in lines:
            line.close()
        return timed


def _words(ask: Ask) -> list[str]:
    """The attacker's own words, which an answer may repeat."""
    return [ask.texts[0]] if ask.texts and ask.path.startswith("/v2/") else []
