"""What is tried: each kind of limit at each level, each in an organisation of its own with four keys.

Two keys belong to one principal, a third to another of the same project, a fourth to another project, so that a limit
counted at the wrong level shows. Demand is split evenly over the subjects of a limit.
"""

import random
from typing import Any, get_args

import msgspec

from gateway.limits.plans import Level
from lab.house.house import HELD, QUICK

KEYS = (("web", "ann"), ("web", "ann"), ("web", "bob"), ("batch", "cat"))
"""Project and principal of each key."""
TIMES = 10
"""Demand, as a multiple of the limit."""
WEIGHTS = {"prompt": 0.25, "output": 0.75}
COSTS = {"prompt": 4.0, "output": 16.0}
"""Cost units for 1,000 tokens."""
MOST = 20
"""Tokens of a prompt, and of an answer; twice as many where a budget is to be spent, and few ask for it."""
MEAN = {"requests": 1.0, "tokens": 6.0, "cost": 215.0}
"""Units of a request, about, on the average of all sizes."""
PLANTED = "planted"
KINDS = ("requests_per_minute", "tokens_per_minute", "tokens_per_day", "concurrency", "cost_per_month")
LEVELS: tuple[Level, ...] = get_args(Level)


class Size(msgspec.Struct, frozen=True):
    """Tokens of a request, known before and told after: the prompt is so many bytes, the answer `max_tokens`."""

    prompt: int
    output: int

    def units(self, kind: str) -> int:
        """What it takes from a limit of this kind."""
        if kind.startswith("tokens"):
            return -(-(self.prompt + 3 * self.output) // 4)
        return 4 * self.prompt + 16 * self.output if kind == "cost_per_month" else 1


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """How hard it is tried. What holds a slot should be long against the time until somebody asks for the next."""

    seconds: float = 130.0
    clients: int = 5
    """For each case, and for each slot of a limit on concurrency ten."""
    pause_s: float = 1.0
    """From one request of a client to its next."""
    poll_s: float = 0.8
    """The same for clients that wait for a slot."""
    hold_s: float = 6.0
    """The least that an answer takes which holds a slot."""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One limit at one level. A `planted` one is enforced wrongly by one gateway: the auditor must see it."""

    kind: str
    level: Level
    cap: int
    """In units of the plan file."""
    clients: tuple[int, ...]
    """The key of each client."""
    pause_s: float
    planted: bool = False

    @property
    def name(self) -> str:
        """Of its organisation and of its plan."""
        return f"{self.kind}-{self.level}{'-' + PLANTED if self.planted else ''}"

    @property
    def model(self) -> str:
        return HELD if self.kind == "concurrency" else QUICK

    def least_s(self, load: Load) -> float:
        """The least that an answer takes."""
        return load.hold_s if self.kind == "concurrency" else 0.0

    @property
    def units(self) -> int:
        """The limit in what requests take from it."""
        return self.cap * 1000 if self.kind == "cost_per_month" else self.cap

    def limit(self, cap: int | None = None) -> dict[str, Any]:
        """The limit as a plan file has it."""
        measure, _, period = self.kind.partition("_per_")
        found: dict[str, Any] = {"measure": measure, "limit": cap or self.cap, "at": self.level}
        return found | ({"per": period} if period else {})

    def wrong_limit(self) -> dict[str, Any]:
        """A fifth more than it may be, one at least."""
        return self.limit(max(self.cap + 1, self.cap * 6 // 5))

    def subject(self, key: int) -> str:
        """Whom a key's requests count for."""
        return subject_of(self.level, key)

    def size(self, chance: random.Random) -> Size:
        """Half of all requests are as small as can be, so that no limit stays empty for want of a request that fits."""
        least = 2 if self.kind == "concurrency" else 1  # what is held is told in two pieces
        if chance.random() < 0.5:
            return Size(1, least)
        most = 2 * MOST if self.kind == "cost_per_month" else MOST
        return Size(chance.randint(1, most), chance.randint(least, most))


def subject_of(level: Level, key: int) -> str:
    project, principal = KEYS[key]
    names = {"organisation": "all", "project": project, "principal": f"{project}/{principal}", "key": f"key {key}"}
    return names[level]


def cases(load: Load) -> list[Case]:
    """Each kind at each level, and each kind once more with a planted fault."""
    honest = [_case(kind, level, load) for kind in KINDS for level in LEVELS]
    faulty = [msgspec.structs.replace(_case(kind, "organisation", load), planted=True) for kind in KINDS]
    return honest + faulty


def _case(kind: str, level: Level, load: Load) -> Case:
    subjects: dict[str, list[int]] = {}
    for key in range(len(KEYS)):
        subjects.setdefault(subject_of(level, key), []).append(key)
    if kind == "concurrency":
        cap = 3 if len(subjects) == 1 else 1
        number = TIMES * cap * len(subjects)
        return Case(kind=kind, level=level, cap=cap, clients=_spread(subjects, number), pause_s=load.poll_s)
    number = max(load.clients, len(subjects))
    measure, _, period = kind.partition("_per_")
    asked = (60.0 if period == "minute" else load.seconds) / load.pause_s * (number // len(subjects)) * MEAN[measure]
    least = MOST if measure == "tokens" else 1  # less, and the largest could never be admitted
    cap = max(least, round(asked / TIMES / (1000 if measure == "cost" else 1)))
    return Case(kind=kind, level=level, cap=cap, clients=_spread(subjects, number), pause_s=load.pause_s)


def _spread(subjects: dict[str, list[int]], number: int) -> tuple[int, ...]:
    """The key of each of so many clients: subjects in turn, and the keys of each in turn."""
    keys = list(subjects.values())
    return tuple(keys[n % len(keys)][n // len(keys) % len(keys[n % len(keys)])] for n in range(number))
