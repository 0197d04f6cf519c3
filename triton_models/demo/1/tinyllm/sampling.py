"""One token from a distribution. Pure but for the random generator, which the caller brings."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from .parameters import Parameters

Probabilities = npt.NDArray[np.float64]


def choose(
    probabilities: Probabilities,
    parameters: Parameters,
    counts: Mapping[int, int],
    generator: np.random.Generator,
    banned: int | None = None,
) -> int:
    """The next token.

    `probabilities` has the shape [vocabulary]; `counts` says how often this output holds each token already; `banned`
    is a token that must not come (the end, while it is not allowed).
    """
    weights = _penalised(probabilities, parameters, counts)
    if banned is not None:
        weights = weights.copy()
        weights[banned] = 0.0
    if parameters.temperature == 0:
        return int(weights.argmax())
    if parameters.temperature != 1:
        weights = _tempered(weights, parameters.temperature)
    if parameters.top_k <= 0 and parameters.top_p >= 1:
        # Nothing is cut off, so the order does not matter: sorting would be most of the work here.
        sums = np.cumsum(weights)
        return min(int(np.searchsorted(sums, generator.random() * sums[-1], side="right")), len(sums) - 1)
    order = np.argsort(-weights, kind="stable")  # stable, so that equal weights cannot change places between runs
    sums = np.cumsum(weights[order])
    kept = _kept(sums, parameters)
    drawn = np.searchsorted(sums[:kept], generator.random() * sums[kept - 1], side="right")
    return int(order[min(int(drawn), kept - 1)])


def logprobs(probabilities: Probabilities, token: int, top: int) -> dict[int, tuple[float, int]]:
    """Token -> (natural logarithm of its probability, rank from 1): `token` first, then the `top` likeliest.

    These are the model's own, before temperature and penalties, as vLLM tells them.
    """
    likeliest = np.argsort(-probabilities, kind="stable")[:top]
    told = dict.fromkeys((token, *(int(other) for other in likeliest if probabilities[other] > 0)))
    return {
        other: (float(np.log(probabilities[other])), int((probabilities > probabilities[other]).sum()) + 1)
        for other in told
    }


def _penalised(probabilities: Probabilities, parameters: Parameters, counts: Mapping[int, int]) -> Probabilities:
    presence, frequency = parameters.presence_penalty, parameters.frequency_penalty
    if not counts or (presence == 0 and frequency == 0):
        return probabilities
    tokens = np.fromiter(counts, np.intp)
    exponents = -presence - frequency * np.fromiter(counts.values(), np.float64)
    # Only ratios matter: all are made smaller, so that a token wished for hundreds of times does not overflow.
    most = max(0.0, float(exponents.max()))
    weights: Probabilities = probabilities * np.exp(-most)
    weights[tokens] = probabilities[tokens] * np.exp(exponents - most)
    return weights


def _tempered(weights: Probabilities, temperature: float) -> Probabilities:
    """weights ** (1 / temperature), scaled by the largest first: a small temperature would lose all to underflow."""
    result: Probabilities = (weights / weights.max()) ** (1 / temperature)
    return result


def _kept(sums: Probabilities, parameters: Parameters) -> int:
    """How many of the likeliest tokens top_k and top_p leave; `sums` are running sums of falling weights."""
    kept = len(sums) if parameters.top_k <= 0 else min(parameters.top_k, len(sums))
    if parameters.top_p < 1:
        kept = min(kept, int(np.searchsorted(sums[:kept], parameters.top_p * sums[kept - 1])) + 1)
    return max(1, min(kept, len(sums)))
