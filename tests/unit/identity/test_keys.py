"""Tokens: built, read, compared."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.ids import ALPHABET, checksum, make_id
from gateway.identity.keys import (
    BODY_END,
    SECRET_BYTES,
    TOKEN_LENGTH,
    claimed_id,
    digest,
    make_token,
    matches,
    parse_token,
)

PEPPER = b"pepper"
ids = st.binary(min_size=12, max_size=12).map(lambda entropy: make_id("key", entropy))
tokens = st.builds(make_token, ids, st.binary(min_size=SECRET_BYTES, max_size=SECRET_BYTES))


@given(ids, st.binary(min_size=SECRET_BYTES, max_size=SECRET_BYTES))
def test_a_token_tells_the_id_of_its_key_and_nothing_else_of_it(key_id: str, entropy: bytes) -> None:
    token = make_token(key_id, entropy)
    assert len(token) == TOKEN_LENGTH == 59
    assert parse_token(token) == claimed_id(token) == key_id


@given(tokens, st.data())
def test_a_token_with_one_character_changed_is_refused(token: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.sampled_from([c for c in ALPHABET + "-_ \0é" if c != token[place]]))
    assert parse_token(token[:place] + other + token[place + 1 :]) is None


@given(tokens, st.integers(1, TOKEN_LENGTH - 1), st.sampled_from(ALPHABET))
def test_a_token_cut_short_or_drawn_out_is_refused(token: str, length: int, more: str) -> None:
    assert parse_token(token[:length]) is None
    assert parse_token(token + more) is None
    assert parse_token(" " + token) is None
    assert parse_token(token + "\n") is None


@given(st.one_of(st.text(), st.text(min_size=TOKEN_LENGTH, max_size=TOKEN_LENGTH), st.text().map("cf-".__add__)))
def test_no_text_at_all_makes_the_parser_fail(text: str) -> None:
    parse_token(text)
    matches(PEPPER, text, bytes(32))


@pytest.mark.parametrize("text", ["' or 1=1 --", "x'; drop table key; --", '" or ""="'])
def test_a_bearer_token_that_carries_sql_is_refused_before_any_io(text: str) -> None:
    """CVE-2026-42208: even one of the right length with a checksum that fits."""
    body = ("cf-" + text).ljust(BODY_END, "0")[:BODY_END]
    assert parse_token(text) is None
    assert parse_token(body + checksum(body)) is None


@given(tokens)
def test_the_stored_digest_does_not_open_the_door(token: str) -> None:
    """Pass-the-hash: who has read the database presents what he found there."""
    stored = digest(PEPPER, token)
    for presented in (stored.hex(), stored.decode("latin-1"), base64.b64encode(stored).decode()):
        assert parse_token(presented) is None
        assert not matches(PEPPER, presented, stored)


@given(tokens, tokens)
def test_only_the_whole_token_under_the_right_pepper_matches(token: str, other: str) -> None:
    stored = digest(PEPPER, token)
    assert matches(PEPPER, token, stored)
    assert not matches(b"another pepper", token, stored)
    assert matches(PEPPER, other, stored) == (other == token)


def test_a_token_is_not_made_of_too_little_entropy() -> None:
    with pytest.raises(ValueError, match="24 bytes"):
        make_token(make_id("key", bytes(12)), bytes(23))
