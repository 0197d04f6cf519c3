"""Disguise: what a client is told adds up as if its prompt had not been touched, to the last token."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.decision import Slow
from gateway.core.delta import Delta, TokenLogprob, Usage
from gateway.core.prompt import Message, Prompt, Sampling
from gateway.policy.disguise import (
    LEAST_OUTPUT,
    MARGIN,
    Pace,
    Retelling,
    Room,
    Spread,
    beyond,
    can_shadow,
    pace,
    room,
    shortened,
    told,
    told_finish,
)

COUNT = st.integers(0, 10_000)


@pytest.mark.parametrize(
    ("real", "untouched", "block", "shown"),
    [
        (Usage(130, 20, 0), 100, 1, Usage(100, 20, 0)),
        (Usage(130, 20, 30), 100, 1, Usage(100, 20, 0)),  # nothing beyond what was added was in the cache
        (Usage(130, 20, 31), 100, 1, Usage(100, 20, 1)),
        (Usage(130, 20, 128), 100, 16, Usage(100, 20, 96)),
        (Usage(130, 20, 62), 100, 16, Usage(100, 20, 32)),
        (Usage(130, 20, 45), 100, 16, Usage(100, 20, 0)),
        (Usage(100, 20, 64), 100, 16, Usage(100, 20, 64)),  # nothing was added
        (Usage(80, 20, 64), 100, 16, Usage(100, 20, 64)),  # words were taken out
        (Usage(300, 20, 290), 10, 1, Usage(10, 20, 0)),
    ],
)
def test_usage_is_told_as_untouched(real: Usage, untouched: int, block: int, shown: Usage) -> None:
    assert told(real, untouched, cache_block=block) == shown
    if block == 1:
        assert told(real, untouched) == shown


@given(COUNT, COUNT, COUNT, COUNT, st.sampled_from([1, 16, 64]))
def test_what_is_told_is_possible_and_with_what_goes_beyond_covers_what_was_used(
    prompt: int, completion: int, cached: int, untouched: int, block: int
) -> None:
    real = Usage(prompt, completion, min(cached, prompt))
    shown = told(real, untouched, cache_block=block)
    rest = beyond(real, shown)
    assert shown.prompt_tokens == untouched
    assert shown.completion_tokens == completion
    assert 0 <= shown.cached_tokens <= untouched
    assert shown.cached_tokens % block == 0
    assert shown.prompt_tokens + rest.prompt_tokens == max(prompt, untouched)
    assert rest.completion_tokens == 0
    assert 0 <= rest.cached_tokens <= rest.prompt_tokens


@pytest.mark.parametrize(
    ("real", "shown", "rest"),
    [
        (Usage(130, 20, 30), Usage(100, 20, 0), Usage(30, 0, 30)),
        (Usage(130, 25, 128), Usage(100, 20, 96), Usage(30, 5, 30)),
        (Usage(130, 20, 10), Usage(100, 20, 0), Usage(30, 0, 10)),
        (Usage(130, 20, 100), Usage(100, 20, 90), Usage(30, 0, 10)),
        (Usage(130, 20, 0), Usage(100, 20, 0), Usage(30, 0, 0)),
        (Usage(90, 20, 0), Usage(100, 30, 16), Usage(0, 0, 0)),
    ],
)
def test_the_defence_account_carries_the_rest(real: Usage, shown: Usage, rest: Usage) -> None:
    assert beyond(real, shown) == rest


@pytest.mark.parametrize(
    ("context", "touched", "granted", "found"),
    [
        (1000, 130, 870, Room(870, False, 0)),
        (1000, 130, 871, Room(870, True, 0)),
        (1000, 984, 500, Room(16, True, 0)),
        (1000, 985, 500, Room(16, True, 1)),
        (1000, 1000, 500, Room(16, True, 16)),
        (1000, 1030, 500, Room(16, True, 46)),
        (1000, 995, 5, Room(5, False, 0)),
        (1000, 996, 5, Room(5, False, 1)),
        (1000, 1029, 1, Room(1, False, 30)),
        (1000, 1000, 16, Room(16, False, 16)),
        (1000, 1000, 17, Room(16, True, 16)),
    ],
)
def test_room_is_found_without_a_word(context: int, touched: int, granted: int, found: Room) -> None:
    assert room(context, touched, granted) == found


@given(st.integers(1, 5000), st.integers(1, 6000), st.integers(1, 5000))
def test_the_context_never_overflows_and_nobody_gets_more_than_was_granted(
    context: int, touched: int, granted: int
) -> None:
    found = room(context, touched, granted)
    assert touched - found.excess + found.max_tokens <= context or touched < found.excess
    assert found.max_tokens <= granted
    assert found.lowered is (found.max_tokens < granted)
    assert found.max_tokens >= min(granted, LEAST_OUTPUT)
    if found.excess:
        assert found.max_tokens == min(granted, LEAST_OUTPUT)


@pytest.mark.parametrize(
    ("reason", "lowered", "shown"),
    [("length", True, "stop"), ("length", False, "length"), ("stop", True, "stop"), ("stop", False, "stop"),
     (None, True, None), (None, False, None)],
)  # fmt: skip
def test_an_end_at_a_cap_that_the_client_does_not_know_is_an_end_of_its_own(
    reason: str | None, lowered: bool, shown: str | None
) -> None:
    assert told_finish(reason, lowered=lowered) == shown


def test_words_are_left_out_of_the_middle_of_the_longest_text() -> None:
    text = "a" * 500 + "b" * 500
    chat = Prompt(endpoint="chat", model="m", messages=(Message("user", "short"), Message("assistant", text)))
    cut = shortened(chat, 10, 250)
    characters = -(-10 * 1005 // 250) + MARGIN
    kept = cut.messages[1].content
    assert cut.messages[0] == Message("user", "short")
    assert cut.messages[1].role == "assistant"
    assert len(kept) == 1000 - characters
    assert abs(kept.count("a") - kept.count("b")) <= 1
    plain = shortened(Prompt(endpoint="completions", model="m", texts=("x", text, "y")), 10, 250)
    assert plain.texts[0] == "x"
    assert plain.texts[2] == "y"
    assert len(plain.texts[1]) == 1000 - (-(-10 * 1002 // 250) + MARGIN)


def test_never_more_is_left_out_than_there_is() -> None:
    assert shortened(Prompt(endpoint="completions", model="m", texts=("abc",)), 50, 3).texts == ("",)
    assert shortened(Prompt(endpoint="completions", model="m", texts=("abc",)), 1, 0).texts == ("",)
    assert shortened(Prompt(endpoint="completions", model="m", texts=("x" * 100,)), 1, 1).texts == ("",)
    empty = Prompt(endpoint="chat", model="m")
    assert shortened(empty, 5, 5) == empty


@given(st.integers(1, 400), st.integers(1, 8))
def test_one_cut_makes_room_where_tokens_are_evenly_long(excess: int, width: int) -> None:
    """A tokenizer of `width` characters a token."""
    text = "x" * 500 * width
    cut = shortened(Prompt(endpoint="completions", model="m", texts=(text,)), excess, 500)
    assert len(cut.texts[0]) // width <= 500 - excess


def test_a_decoy_answers_only_where_nobody_reads_its_tokens() -> None:
    assert can_shadow(Prompt(endpoint="chat", model="m"))
    assert not can_shadow(Prompt(endpoint="chat", model="m", sampling=Sampling(logprobs=0)))
    assert not can_shadow(Prompt(endpoint="chat", model="m", sampling=Sampling(logit_bias={"1": 2.0})))


def letters(text: str) -> int:
    return len(text)


def test_a_decoys_answer_is_counted_as_the_nominal_models() -> None:
    telling = Retelling(letters, 100)
    logprob = TokenLogprob("a", -1.0)
    first = telling.feed(Delta("abc", 1, None, 7, 1, 3, (logprob,)))
    assert first == Delta("abc", 1, None, 7, 0, 0, None)
    assert telling.feed(Delta("de", 1, "stop", 7, 1)) == Delta("de", 1, "stop", 7, 5)


@pytest.mark.parametrize(
    ("text", "reason", "tokens"),
    [("abcdef", "stop", 5), ("abc", "stop", 3), ("", "stop", 1), ("abc", "length", 5), ("abcdefgh", "length", 5),
     ("abcde", "stop", 5)],
)  # fmt: skip
def test_a_decoys_counts_and_its_finish_reason_go_together(text: str, reason: str, tokens: int) -> None:
    assert Retelling(letters, 5).feed(Delta(text, 0, reason, 3, 1)).completion_tokens == tokens


SPREAD = Spread((100.0, 200.0, 400.0), (10.0, 20.0, 30.0))
TOP = 2**32 - 1


@pytest.mark.parametrize(
    ("slow", "roll", "found"),
    [
        (Slow(0, 1), 0, Pace(100, 10)),
        (Slow(0.5, 1), 0, Pace(200, 20)),
        (Slow(0.25, 0.25), 0, Pace(150, 15)),
        (Slow(0.75, 0.75), TOP << 32 | TOP, Pace(300, 25)),
        (Slow(1, 1), 5, Pace(400, 30)),
        (Slow(0, 1), 1 << 31, Pace(200, 10)),
        (Slow(0, 1), 1 << 63, Pace(100, 20)),
        (Slow(0, 0.5), 1 << 31 | 1 << 63, Pace(150, 15)),
    ],
)
def test_slowness_is_drawn_from_a_busy_day(slow: Slow, roll: int, found: Pace) -> None:
    assert pace(slow, SPREAD, roll) == pytest.approx(found)


def test_a_spread_of_one_value_is_that_value() -> None:
    assert pace(Slow(0.2, 0.9), Spread((5.0,), (1.0,)), 12345) == Pace(5.0, 1.0)


@given(st.integers(0, 2**64 - 1))
def test_slowness_stays_within_its_quantiles(roll: int) -> None:
    found = pace(Slow(0.5, 0.75), SPREAD, roll)
    assert 200 <= found.first_ms <= 300
    assert 20 <= found.gap_ms <= 25
