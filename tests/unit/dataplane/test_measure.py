"""What admission reserves is never less than what the backend can legally report."""

import asyncio
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.errors import ContextLengthExceeded, InvalidRequest, TooLargeForPlan
from gateway.core.prompt import Prompt
from gateway.dataplane.measure import measure
from gateway.fleet.file import Model, TritonModel
from gateway.fleet.models import ServedModel
from gateway.limits.plans import Limit
from gateway.limits.weights import ONE_REQUEST, Weights

CONTEXT, MAX_OUTPUT = 100, 60


@dataclass
class Halves:
    """Two bytes a token: the bound is twice the count."""

    exact: bool = False
    local: bool = False
    counted: int = 0

    def bound(self, text: str) -> int:
        return len(text)

    def floor(self, text: str) -> int:
        return -(-len(text) // 4)

    async def count(self, text: str) -> int:
        self.counted += 1
        return self.count_now(text)

    def count_now(self, text: str) -> int:
        return -(-len(text) // 2)


def model(counter: Halves, special: int = 0) -> ServedModel:
    entry = Model(
        name="demo", triton=TritonModel("demo"), endpoints=("a",), context_tokens=CONTEXT, max_output_tokens=MAX_OUTPUT,
        tokenizer="bytes", special_tokens=special,
    )  # fmt: skip
    return ServedModel(entry, frozenset(), counter, None, ())


def tokens_limit(cap: int | None) -> tuple[Limit, ...]:
    requests = Limit("requests_per_minute", "key", "k", "requests", 1, 60_000, 1_000, None, ONE_REQUEST)
    tokens = Limit("tokens_per_minute", "key", "k", "tokens", cap or 0, 60_000, 1_000, None, Weights())
    return (requests,) if cap is None else (requests, tokens)


def measured(
    texts: list[str], max_tokens: int | None, *, n: int = 1, default: int = 20, cap: int | None = None,
    special: int = 0, counter: Halves | None = None,
) -> tuple[int, int]:  # fmt: skip
    prompt = Prompt(endpoint="completions", model="demo", texts=tuple(texts), max_tokens=max_tokens, n=n)
    served = model(counter or Halves(), special)
    found = asyncio.run(measure(prompt, prompt.texts, served, default, tokens_limit(cap), asyncio.to_thread))
    return found.max_tokens, found.ceiling.prompt_tokens + found.ceiling.completion_tokens


@settings(max_examples=500, deadline=None)
@given(
    texts=st.lists(st.text("x", max_size=220), min_size=1, max_size=4),
    max_tokens=st.none() | st.integers(1, 80),
    n=st.integers(1, 4),
    default=st.integers(1, 100),
    cap=st.none() | st.integers(1, 500),
    special=st.integers(0, 2),
)
def test_the_reservation_covers_every_legal_usage_and_fits_the_limit(
    texts: list[str], max_tokens: int | None, n: int, default: int, cap: int | None, special: int
) -> None:
    counts = [-(-len(text) // 2) + special for text in texts]
    try:
        output, reserved = measured(texts, max_tokens, n=n, default=default, cap=cap, special=special)
    except ContextLengthExceeded:
        assert max(counts) + (max_tokens or 1) > CONTEXT
        return
    except TooLargeForPlan:
        assert cap is not None
        assert sum(counts) + (max_tokens or 1) * n * len(texts) > cap
        return
    except InvalidRequest:
        assert max_tokens is not None
        assert max_tokens > MAX_OUTPUT
        return
    assert reserved >= sum(counts) + output * n * len(texts)
    assert 1 <= output <= (max_tokens or min(default, MAX_OUTPUT))
    assert max_tokens is None or output == max_tokens
    assert max(counts) + output <= CONTEXT
    assert cap is None or reserved <= cap


def test_a_text_that_is_hopelessly_long_is_refused_without_being_counted() -> None:
    counter = Halves()
    with pytest.raises(ContextLengthExceeded, match="at least"):
        measured(["x" * 4 * CONTEXT], 1, counter=counter)
    assert counter.counted == 0


def test_a_text_is_counted_only_where_its_bound_does_not_fit() -> None:
    counter = Halves()
    measured(["x" * 30], 20, counter=counter)
    assert counter.counted == 0
    assert measured(["x" * 150], 20, counter=counter) == (20, 75 + 20)
    assert counter.counted == 1


def test_a_text_that_nearly_fills_the_context_is_counted_whoever_asks() -> None:
    """What is added to a contained prompt must fit there, and only its own length would be counted otherwise."""
    counter, leeway = Halves(), CONTEXT // 8
    measured(["x" * (CONTEXT - 20 - leeway)], 20, counter=counter)
    assert counter.counted == 0
    measured(["x" * (CONTEXT - 20 - leeway + 1)], 20, counter=counter)
    assert counter.counted == 1


def test_a_default_does_not_refuse_what_the_client_never_asked_for() -> None:
    assert measured(["x" * 4], None, default=50, cap=10) == (8, 10)


@pytest.mark.parametrize(("texts", "param"), [(["x" * 4], "max_tokens"), (["x" * 100], "prompt")])
def test_what_can_never_fit_is_told_with_the_part_that_is_too_large(texts: list[str], param: str) -> None:
    with pytest.raises(TooLargeForPlan) as refused:
        measured(texts, 30, cap=20)
    assert refused.value.param == param
