"""Telling two keys apart by numbers: two classifiers on the differences within pairs, judged on pairs held out. Pure.

A pair is (the first answer's numbers less the second's), and the question is whether the first was the contained key's.
The order within pairs is random, so what the order alone does to the numbers helps nobody.
"""

import math
import statistics
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

Row = Sequence[float]
Rule = Callable[[Row], float]
"""Above 0: the first is the contained one."""

MOST = 0.55
"""The highest accuracy that is allowed."""
CLIP = 4.0
STEPS, RATE, PENALTY = 150, 0.5, 0.01
STUMPS, SHRINK, CUTS = 40, 0.3, 24


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """A classifier's right answers on pairs that it had not seen."""

    classifier: str
    pairs: int
    right: int

    @property
    def accuracy(self) -> float:
        return self.right / self.pairs if self.pairs else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's, 95%."""
        return wilson(self.right, self.pairs)

    @property
    def tells(self) -> bool:
        """Whether it is above MOST, and not by the luck of a few pairs."""
        return self.accuracy > MOST and self.interval[0] > 0.5


def judge(rows: Sequence[Row], contained_first: Sequence[bool]) -> list[Judged]:
    """Both classifiers, trained on the first half and judged on the second."""
    half = len(rows) // 2
    scale = Scale.of(rows[:half])
    seen, unseen = [scale(row) for row in rows[:half]], [scale(row) for row in rows[half:]]
    signs = [1.0 if first else -1.0 for first in contained_first]
    found = []
    for name, train in (("logistic regression", logistic), ("boosted stumps", stumps)):
        rule = train(seen, signs[:half]) if half > 1 else _nothing
        right = sum((rule(row) > 0) == (sign > 0) for row, sign in zip(unseen, signs[half:], strict=True))
        found.append(Judged(classifier=name, pairs=len(unseen), right=right))
    return found


class Scale(NamedTuple):
    """Makes features alike: less their median, over their spread, and no outlier beyond CLIP."""

    middles: tuple[float, ...]
    spreads: tuple[float, ...]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "Scale":
        columns = list(zip(*rows, strict=True))
        middles = [statistics.median(column) for column in columns]
        spreads = [_spread(column, middle) for column, middle in zip(columns, middles, strict=True)]
        return cls(tuple(middles), tuple(spreads))

    def __call__(self, row: Row) -> list[float]:
        return [
            max(-CLIP, min(CLIP, (value - middle) / spread))
            for value, middle, spread in zip(row, self.middles, self.spreads, strict=True)
        ]


def _spread(column: Sequence[float], middle: float) -> float:
    """The median distance from the middle, as a deviation; where most do not differ at all, the mean distance."""
    distances = [abs(value - middle) for value in column]
    return 1.4826 * statistics.median(distances) or statistics.fmean(distances) or 1.0


def logistic(rows: Sequence[Row], signs: Sequence[float]) -> Rule:
    """Logistic regression by plain gradient descent, with a little penalty on its weights."""
    weights = [0.0] * (len(rows[0]) + 1)
    for _ in range(STEPS):
        gradient = [PENALTY * weight for weight in weights]
        for row, sign in zip(rows, signs, strict=True):
            pull = -sign * _sigmoid(-sign * _score(weights, row)) / len(rows)
            gradient[-1] += pull
            for at, value in enumerate(row):
                gradient[at] += pull * value
        weights = [weight - RATE * slope for weight, slope in zip(weights, gradient, strict=True)]
    return lambda row: _score(weights, row)


def _score(weights: Sequence[float], row: Row) -> float:
    return math.fsum(weight * value for weight, value in zip(weights, row, strict=False)) + weights[-1]


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, value))))


class _Stump(NamedTuple):
    feature: int
    cut: float
    below: float
    above: float

    def __call__(self, row: Row) -> float:
        return self.above if row[self.feature] > self.cut else self.below


def stumps(rows: Sequence[Row], signs: Sequence[float]) -> Rule:
    """Boosted one-feature thresholds (LogitBoost with halves of Newton's steps): sees what is not linear."""
    scores = [0.0] * len(rows)
    chosen: list[_Stump] = []
    candidates = [_cuts([row[at] for row in rows]) for at in range(len(rows[0]))]
    for _ in range(STUMPS):
        pulls = [sign * _sigmoid(-sign * score) for sign, score in zip(signs, scores, strict=True)]
        bends = [abs(pull) * (1 - abs(pull)) for pull in pulls]
        found = (_best_cut(rows, pulls, bends, at, cuts) for at, cuts in enumerate(candidates))
        _, best = max(found, key=lambda one: one[0])
        if best is None:
            break
        chosen.append(best)
        scores = [score + best(row) for score, row in zip(scores, rows, strict=True)]
    return lambda row: math.fsum(stump(row) for stump in chosen)


def _cuts(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    return sorted({ordered[len(ordered) * n // CUTS] for n in range(CUTS)})


def _best_cut(
    rows: Sequence[Row], pulls: Sequence[float], bends: Sequence[float], at: int, cuts: Sequence[float]
) -> tuple[float, _Stump | None]:
    """The gain of the best threshold on a feature."""
    sums = [[0.0, 0.0] for _ in range(len(cuts) + 1)]  # between one cut and the next
    for row, pull, bend in zip(rows, pulls, bends, strict=True):
        place = bisect_left(cuts, row[at])  # a row on a cut is below it
        sums[place][0] += pull
        sums[place][1] += bend
    all_pull, all_bend = sum(pulls), sum(bends)
    best: tuple[float, _Stump | None] = (0.0, None)
    pull = bend = 0.0
    for number, cut in enumerate(cuts):
        pull, bend = pull + sums[number][0], bend + sums[number][1]
        below, above = pull / (bend + 1.0), (all_pull - pull) / (all_bend - bend + 1.0)
        gain = below * pull + above * (all_pull - pull)
        if gain > best[0]:
            best = (gain, _Stump(at, cut, SHRINK * below, SHRINK * above))
    return best


def _nothing(row: Row) -> float:
    return 0.0


def wilson(right: int, of: int) -> tuple[float, float]:
    """The 95% interval of a share."""
    if not of:
        return 0.0, 1.0
    z, share = 1.96, right / of
    middle = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of)) / (1 + z * z / of)
    return max(0.0, middle - half), min(1.0, middle + half)


def middle_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Of a sample: its median, and about the median's standard error."""
    if not values:
        return 0.0, 0.0
    middle = statistics.median(values)
    spread = 1.4826 * statistics.median(abs(value - middle) for value in values)
    return middle, 1.2533 * spread / math.sqrt(len(values))
