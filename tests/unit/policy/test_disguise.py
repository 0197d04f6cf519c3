"""Disguise: what a client is told adds up as if its prompt had not been touched, to the last token."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.decision import Slow
from gateway.core.delta import Delta, TokenLogprob, Usage
from gateway.core.prompt import Message, Prompt, Sampling
from gateway.policy.disguise import (
    MARGIN,
    SETTLED,
    Pace,
    Retelling,
    Spread,
    beyond,
    can_shadow,
    cut,
    excess,
    pace,
    pieces_of,
    told,
    told_finish,
    with_piece,
    within,
    worth_cutting,
)

COUNT = st.integers(0, 10_000)


@pytest.mark.parametrize(
    ("prompt", "cached", "untouched", "added", "block", "shown"),
    [
        (130, 0, 100, 30, 1, 0),
        (130, 30, 100, 30, 1, 0),  # nothing beyond what was added was in the cache
        (130, 31, 100, 30, 1, 1),
        (148, 112, 100, 48, 16, 64),
        (148, 144, 100, 48, 16, 96),  # all but the last, unfinished block
        (144, 128, 96, 48, 16, 80),  # all but the last token's block: a backend computes that one anew
        (144, 144, 96, 48, 16, 96),  # or does not
        (145, 144, 100, 45, 16, 96),  # all that there was: so it would have been, although no whole blocks were added
        (145, 128, 100, 45, 16, 80),
        (60, 48, 12, 48, 16, 0),
        (100, 64, 100, 0, 16, 64),  # nothing was added
        (300, 290, 10, 290, 1, 0),
    ],
)
def test_cached_tokens_are_told_as_untouched(
    prompt: int, cached: int, untouched: int, added: int, block: int, shown: int
) -> None:
    assert told(prompt, cached, untouched, added=added, cache_block=block) == shown


@given(st.integers(1, 500), st.integers(0, 8), st.sampled_from([1, 16, 64]), st.data())
def test_with_whole_blocks_added_the_cache_is_told_to_the_token(
    untouched: int, blocks: int, block: int, data: st.DataObject
) -> None:
    """A conversation of which the backend has read the beginning, with and without what is added before it."""
    known = data.draw(st.integers(0, untouched))
    added = blocks * block
    found = min(known + added, untouched + added - 1) // block * block
    usual = min(known, untouched - 1) // block * block
    assert told(untouched + added, found, untouched, added=added, cache_block=block) == usual


@given(COUNT, COUNT, COUNT, st.integers(0, 300), st.sampled_from([1, 16, 64]))
def test_what_is_told_of_the_cache_is_possible(
    prompt: int, cached: int, untouched: int, added: int, block: int
) -> None:
    shown = told(prompt, min(cached, prompt), untouched, added=added, cache_block=block)
    assert 0 <= shown <= untouched
    assert shown % block == 0


@given(COUNT, COUNT, COUNT, COUNT)
def test_what_goes_beyond_covers_what_was_used(prompt: int, completion: int, cached: int, untouched: int) -> None:
    real, shown = Usage(prompt, completion, min(cached, prompt)), Usage(untouched, completion, 0)
    rest = beyond(real, shown)
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
    [(1000, 130, 870, 0), (1000, 130, 871, 1), (1000, 1000, 1, 1), (1000, 1030, 500, 530), (1000, 1, 1, 0)],
)
def test_what_is_too_much_is_prompt_and_answer_together(context: int, touched: int, granted: int, found: int) -> None:
    assert excess(context, touched, granted) == found


def test_words_go_before_the_cap_does_unless_they_were_many() -> None:
    assert worth_cutting(0, 0)
    assert worth_cutting(25, 100)
    assert not worth_cutting(26, 100)


@pytest.mark.parametrize(
    ("reason", "lowered", "shown"),
    [("length", True, "stop"), ("length", False, "length"), ("stop", True, "stop"), ("stop", False, "stop"),
     (None, True, None), (None, False, None)],
)  # fmt: skip
def test_an_end_at_a_cap_that_the_client_does_not_know_is_an_end_of_its_own(
    reason: str | None, lowered: bool, shown: str | None
) -> None:
    assert told_finish(reason, lowered=lowered) == shown


def test_words_are_left_out_of_the_middle() -> None:
    text = "a" * 500 + "b" * 500
    kept = cut(text, 10, 250)
    assert len(kept) == 1000 - (40 + MARGIN)
    assert kept.count("a") == kept.count("b")
    assert text.startswith(kept[:470])
    assert len(cut(text, 10, 250, 3)) == 1000 - 3 * (40 + MARGIN)


def test_never_more_is_left_out_than_there_is() -> None:
    assert cut("abc", 50, 3) == cut("abc", 1, 0) == cut("x" * 9, 1, 1) == cut("", 5, 5) == ""


@given(st.integers(1, 400), st.integers(1, 8))
def test_one_cut_makes_room_where_tokens_are_evenly_long(too_many: int, width: int) -> None:
    """A tokenizer of `width` characters a token."""
    assert len(cut("x" * 500 * width, too_many, 500)) // width <= 500 - too_many


def test_a_piece_is_put_where_it_was() -> None:
    chat = Prompt(endpoint="chat", model="m", messages=(Message("system", "a"), Message("user", "b")))
    assert with_piece(chat, 1, "c").messages == (Message("system", "a"), Message("user", "c"))
    plain = Prompt(endpoint="completions", model="m", texts=("a", "b"))
    assert with_piece(plain, 0, "c").texts == ("c", "b")
    assert (pieces_of(chat), pieces_of(plain)) == (("a", "b"), ("a", "b"))


def test_a_decoy_answers_only_where_nobody_reads_its_tokens() -> None:
    assert can_shadow(Prompt(endpoint="chat", model="m"))
    assert not can_shadow(Prompt(endpoint="chat", model="m", sampling=Sampling(logprobs=0)))
    assert not can_shadow(Prompt(endpoint="chat", model="m", sampling=Sampling(logit_bias={"1": 2.0})))


def letters(text: str) -> int:
    return len(text)


def test_a_decoys_answer_is_counted_as_the_nominal_models_delta_by_delta() -> None:
    telling = Retelling(letters, 100)
    logprob = TokenLogprob("a", -1.0)
    first = telling.feed(Delta("abc", 1, None, 7, 1, 3, (logprob,)))
    assert first == Delta("abc", 1, None, 7, 3, 3, None)
    assert telling.feed(Delta("de", 1, "stop", 7, 1)) == Delta("de", 1, "stop", 7, 2)


@pytest.mark.parametrize(
    ("text", "reason", "told_text", "told_reason", "tokens"),
    [("abcdef", "stop", "abcde", "length", 5), ("abc", "stop", "abc", "stop", 3), ("", "stop", "", "stop", 1),
     ("abc", "length", "abc", "stop", 3), ("abcdefgh", "length", "abcde", "length", 5),
     ("abcde", "stop", "abcde", "stop", 5), ("abcde", "length", "abcde", "length", 5),
     ("abcdef", None, "abcde", "length", 5), ("abc", None, "abc", None, 3)],
)  # fmt: skip
def test_a_decoys_text_its_count_and_its_finish_reason_go_together(
    text: str, reason: str | None, told_text: str, told_reason: str | None, tokens: int
) -> None:
    shown = Retelling(letters, 5).feed(Delta(text, 0, reason, 3, 1))
    assert (shown.text, shown.finish_reason, shown.completion_tokens) == (told_text, told_reason, tokens)


def words(text: str) -> int:
    """As tokenizers do: a word with the space before it."""
    return len(text.split())


@given(st.lists(st.sampled_from(["tea ", "is", " grown", " on", "\n", " hills and ", "x" * 50]), max_size=60))
def test_a_long_answer_is_counted_piece_by_piece_as_it_is_in_one(pieces: list[str]) -> None:
    telling = Retelling(words, 10_000)
    counted = sum(telling.feed(Delta(piece)).completion_tokens for piece in pieces)
    assert counted == words("".join(pieces))


def test_of_a_long_answer_only_its_end_is_counted_again() -> None:
    asked: list[int] = []

    def counting(text: str) -> int:
        asked.append(len(text))
        return words(text)

    telling = Retelling(counting, 10_000)
    told_tokens = [telling.feed(Delta(" word")).completion_tokens for _ in range(500)]
    assert told_tokens == [1] * 500
    assert max(asked) <= SETTLED + 2 * len(" word")
    assert telling.feed(Delta("end" * 100, finish_reason="stop")).completion_tokens == 0, "of the word before it"
    assert telling.feed(Delta(" last")).completion_tokens == 1


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


@pytest.mark.parametrize(
    ("wanted", "tokens", "most", "found"),
    [
        (Pace(100, 10), 10, 1000, Pace(100, 10)),
        (Pace(100, 10), 90, 1000, Pace(100, 10)),
        (Pace(100, 10), 180, 1000, Pace(100, 5)),
        (Pace(900, 10), 10, 1000, Pace(500, 10)),
        (Pace(900, 100), 10, 1000, Pace(500, 50)),
        (Pace(100, 10), 0, 1000, Pace(100, 10)),
    ],
)
def test_no_slowness_takes_longer_than_a_request_may(wanted: Pace, tokens: int, most: int, found: Pace) -> None:
    assert within(wanted, tokens, most) == found
