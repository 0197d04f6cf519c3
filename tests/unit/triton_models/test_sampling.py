"""The choice of a token."""

from collections import Counter

import numpy as np
import pytest
from tinyllm.parameters import Parameters
from tinyllm.sampling import choose, logprobs


def pick(weights: list[float], draws: int = 300, **parameters: object) -> Counter[int]:
    generator = np.random.default_rng(1)
    given_parameters = Parameters(**parameters)  # type: ignore[arg-type]
    return Counter(choose(np.array(weights), given_parameters, {}, generator) for _ in range(draws))


def test_temperature_zero_takes_the_likeliest() -> None:
    assert set(pick([0.3, 0.4, 0.3], temperature=0.0)) == {1}


def test_a_low_temperature_sharpens_and_does_not_underflow() -> None:
    assert set(pick([0.3, 0.4, 0.3], temperature=0.001)) == {1}


def test_top_k_leaves_the_k_likeliest() -> None:
    assert set(pick([0.1, 0.3, 0.2, 0.4], top_k=2)) == {1, 3}


def test_top_p_leaves_the_fewest_that_reach_it() -> None:
    assert set(pick([0.1, 0.3, 0.2, 0.4], top_p=0.65)) == {1, 3}
    assert set(pick([0.1, 0.3, 0.2, 0.4], top_p=0.05)) == {3}


def test_draws_follow_the_probabilities() -> None:
    counts = pick([0.2, 0.8], draws=2000)
    assert counts[1] / 2000 == pytest.approx(0.8, abs=0.04)


def test_a_banned_token_never_comes() -> None:
    generator = np.random.default_rng(1)
    drawn = {choose(np.array([0.1, 0.9]), Parameters(), {}, generator, banned=1) for _ in range(50)}
    assert drawn == {0}


def test_penalties_make_a_used_token_rarer() -> None:
    greedy = Parameters(temperature=0.0, frequency_penalty=1.0)
    distribution = np.array([0.45, 0.55])
    assert choose(distribution, greedy, {}, np.random.default_rng(1)) == 1
    assert choose(distribution, greedy, {1: 1}, np.random.default_rng(1)) == 0


def test_a_token_that_is_wished_for_hundreds_of_times_does_not_overflow() -> None:
    wished = Parameters(frequency_penalty=-2.0)
    assert choose(np.array([0.5, 0.5]), wished, {1: 1000}, np.random.default_rng(1)) == 1


def test_logprobs_hold_the_chosen_token_and_the_likeliest_with_their_ranks() -> None:
    told = logprobs(np.array([0.1, 0.2, 0.7, 0.0]), 0, 2)
    assert list(told) == [0, 2, 1]
    assert [rank for _, rank in told.values()] == [3, 1, 2]
    assert [logprob for logprob, _ in told.values()] == pytest.approx(np.log([0.1, 0.7, 0.2]))
