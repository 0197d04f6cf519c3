"""What a request weighs: whole units, rounded up once, never more at the end than what was reserved."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.delta import Usage
from gateway.limits.weights import SCALE, Price, Weights

weight = st.integers(0, 10_000)
tokens = st.integers(0, 100_000)


@st.composite
def weights(draw: st.DrawFn) -> Weights:
    prompt = draw(weight)
    return Weights(prompt, draw(st.integers(0, prompt)), draw(weight), draw(weight))


@given(weights(), tokens, tokens, st.data())
def test_what_a_request_used_never_weighs_more_than_its_ceiling(
    found: Weights, prompt: int, output: int, data: st.DataObject
) -> None:
    used_prompt, used_output = data.draw(st.integers(0, prompt)), data.draw(st.integers(0, output))
    cached = data.draw(st.integers(0, used_prompt))
    assert found.units(Usage(used_prompt, used_output, cached)) <= found.units(Usage(prompt, output))


@given(weights(), st.integers(0, 10**6), tokens)
def test_the_most_output_fits_and_one_token_more_does_not(found: Weights, cap: int, prompt: int) -> None:
    most = found.most_output(cap, prompt)
    if most is None:
        assert found.units(Usage(prompt, 10**9)) <= cap
    elif most >= 0:
        assert found.units(Usage(prompt, most)) <= cap < found.units(Usage(prompt, most + 1))
    else:
        assert found.units(Usage(prompt, 0)) > cap


def test_a_gib_of_kv_cache_held_for_a_second_costs_its_price() -> None:
    price = Price(Weights(), kv=250, kv_bytes=1 << 20)
    assert price.kv_cost(1024, 0, 1000) == 250  # 1,024 tokens of a MiB each
    assert price.kv_cost(0, 1024, 1000) == 125  # the output grew evenly
    assert price.kv_cost(1, 0, 1) == 1  # rounded up: what was held was not for nothing
    assert price.kv_cost(0, 0, 1000) == Price().kv_cost(10, 10, 10) == 0


def test_a_plain_token_is_one_unit() -> None:
    assert Weights().units(Usage(3, 4)) == 7
    assert Weights(request=SCALE).units(Usage()) == 1
