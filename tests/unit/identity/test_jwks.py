"""An issuer's keys: what is taken of a JWKS, and when it is fetched, by a clock turned by hand."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.errors import Unavailable
from gateway.identity import jwks as module
from gateway.identity.jwks import MAX_KEYS, MAX_UNKNOWN, BadKeySet, FetchedKeys, choose, parse_jwk, parse_jwks
from tests.support.issuers import SigningKey, issuer, jwks

ES = frozenset({"ES256"})
ANY = frozenset({"RS256", "ES256", "EdDSA"})
ONE, TWO = SigningKey("one"), SigningKey("two")


class Source:
    """What the issuer publishes, each fetch counted; `behave` may fail or wait."""

    def __init__(self, *keys: SigningKey) -> None:
        self.published = jwks(*keys)
        self.fetches = 0
        self.seconds = 1000.0
        self.behave: Callable[[], Awaitable[None]] | None = None

    async def fetch(self, _url: str) -> bytes:
        self.fetches += 1
        if self.behave is not None:
            await self.behave()
        return self.published

    def keys(self, **fields: Any) -> FetchedKeys:
        return FetchedKeys(issuer(**fields), self.fetch, lambda: self.seconds)


async def away() -> None:
    raise aiohttp.ClientConnectionError


async def test_the_first_token_fetches_and_all_others_do_not() -> None:
    source = Source(ONE)
    keys = source.keys()
    assert keys.current("one", "ES256") is None
    found = await asyncio.gather(*(keys.find("one", "ES256") for _ in range(50)))
    assert source.fetches == 1
    assert found[0] is not None
    assert all(key is found[0] for key in found)
    assert keys.current("one", "ES256") is found[0]


async def test_a_new_key_is_found_when_a_token_names_it_and_an_old_one_goes_with_its_publication() -> None:
    source = Source(ONE)
    keys = source.keys(fetch_pause_s=10)
    first = await keys.find("one", "ES256")
    source.published = jwks(ONE, TWO)
    source.seconds += 11
    assert await keys.find("two", "ES256") is not None
    assert keys.current("one", "ES256") is first  # the same object: what was verified with it stays verified
    source.published = jwks(TWO)
    source.seconds += 11
    assert await keys.find("three", "ES256") is None
    assert keys.current("one", "ES256") is None
    assert source.fetches == 3


async def test_a_key_that_was_replaced_under_the_same_kid_is_another_key() -> None:
    source, other = Source(ONE), SigningKey("one")
    keys = source.keys()
    first = await keys.find("one", "ES256")
    other.private = TWO.private
    source.published = jwks(other)
    source.seconds += 11
    await keys.find("two", "ES256")
    assert keys.current("one", "ES256") not in (None, first)


async def test_a_storm_of_unknown_kids_makes_one_fetch_a_pause() -> None:
    source = Source(ONE)
    keys = source.keys(fetch_pause_s=10)
    await keys.find("one", "ES256")
    for number in range(1000):
        source.seconds += 0.1
        try:
            assert await keys.find(f"made up {number}", "ES256") is None
        except Unavailable as refused:
            assert refused.retry_after_ms is not None
            assert 0 < refused.retry_after_ms <= 11_000
        assert keys.current("one", "ES256") is not None  # those who are known notice nothing
    assert source.fetches <= 1 + 1000 * 0.1 / 10 + 1


async def test_a_kid_that_the_issuer_is_known_not_to_have_is_refused_without_asking() -> None:
    source = Source(ONE)
    keys = source.keys(fetch_pause_s=10)
    assert await keys.find("made up", "ES256") is None
    for _ in range(100):
        source.seconds += 1
        assert await keys.find("made up", "ES256") is None
    assert source.fetches == 1


async def test_what_is_known_of_unknown_kids_is_bounded() -> None:
    source = Source(ONE)
    keys = source.keys(fetch_pause_s=1)
    await keys.find("one", "ES256")
    source.fetch = lambda _url: asyncio.sleep(0, jwks(ONE))  # type: ignore[method-assign]
    for number in range(2 * MAX_UNKNOWN):
        keys._note_unknown(str(number))
    assert len(keys._unknown) == MAX_UNKNOWN


async def test_with_the_issuer_away_the_last_keys_are_good_for_the_stated_time_and_then_it_is_503() -> None:
    source = Source(ONE)
    keys = source.keys(keys_good_for_s=60, fetch_pause_s=10)
    await keys.find("one", "ES256")
    source.behave = away
    source.seconds += 59.9
    assert await keys.find("one", "ES256") is not None
    source.seconds += 0.2
    for _ in range(3):
        with pytest.raises(Unavailable) as refused:
            await keys.find("one", "ES256")
        assert refused.value.status == 503
        source.seconds += 4
    assert source.fetches == 2
    source.behave = None
    source.seconds += 11
    assert await keys.find("one", "ES256") is not None


async def test_with_the_issuer_away_an_unknown_kid_is_503_and_never_401() -> None:
    source = Source(ONE)
    keys = source.keys(fetch_pause_s=10)
    await keys.find("one", "ES256")
    source.behave = away
    for _ in range(30):
        source.seconds += 1
        with pytest.raises(Unavailable):
            await keys.find("two", "ES256")
    assert source.fetches <= 5
    source.behave = None
    source.published = jwks(ONE, TWO)
    source.seconds += 11
    assert await keys.find("two", "ES256") is not None


async def test_an_issuer_that_was_never_there_is_503() -> None:
    source = Source(ONE)
    source.behave = away
    with pytest.raises(Unavailable):
        await source.keys().find("one", "ES256")


async def test_an_issuer_that_hangs_holds_nobody_longer_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FETCH_S", 0.1)
    source = Source(ONE)
    source.behave = lambda: asyncio.sleep(60)
    keys = source.keys()
    async with asyncio.timeout(2):
        with pytest.raises(Unavailable):
            await keys.find("one", "ES256")
    await keys.close()


async def test_keys_are_fetched_again_in_the_background_and_a_token_that_knows_its_key_never_waits() -> None:
    source = Source(ONE)
    keys = source.keys()
    keeping = asyncio.create_task(keys.keep())
    await keys.find("one", "ES256")
    source.behave = lambda: asyncio.sleep(60)
    source.seconds += 11
    waiting = asyncio.create_task(keys.find("two", "ES256"))
    await asyncio.sleep(0)
    async with asyncio.timeout(1):
        assert await keys.find("one", "ES256") is not None
    for task in (keeping, waiting):
        task.cancel()
    await asyncio.gather(keeping, waiting, return_exceptions=True)
    await keys.close()


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"keys": 1}', b'{"keys": []}', b"<html>", b"\xff", b"[" * 9999])
async def test_what_is_no_jwks_changes_nothing(body: bytes) -> None:
    source = Source(ONE)
    keys = source.keys()
    await keys.find("one", "ES256")
    source.published = body
    source.seconds += 11
    with pytest.raises(Unavailable):
        await keys.find("two", "ES256")
    assert keys.current("one", "ES256") is not None


def entry(**fields: Any) -> bytes:
    values = {name: value for name, value in {**ONE.jwk, **fields}.items() if value is not None}
    return json.dumps({"keys": [values]}).encode()


@pytest.mark.parametrize(
    "fields",
    [
        {"use": "enc"},
        {"key_ops": ["sign"]},
        {"alg": "ES384"},
        {"alg": "HS256"},
        {"crv": "P-384"},
        {"crv": "secp256k1"},
        {"kty": "oct", "k": "c2VjcmV0"},
        {"kty": None},
        {"x": "AAAA"},
        {"x": None},
        {"kid": 7},
        {"kid": "k" * 600},
        {"d": "AAAA"},
    ],
)
def test_a_key_for_another_use_or_of_another_kind_is_passed_over(fields: dict[str, Any]) -> None:
    with pytest.raises(BadKeySet, match="no usable key"):
        parse_jwks(entry(**fields), ES)


def test_a_key_that_says_less_of_itself_is_taken_for_what_it_is() -> None:
    (key,) = parse_jwks(entry(use=None, kid=None, key_ops=["verify"], alg="ES256"), ES)
    assert (key.kid, key.algorithms) == (None, ES)


def test_rsa_keys_that_are_too_short_or_too_long_are_passed_over() -> None:
    short = SigningKey("short", "RS256")
    short.private = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    with pytest.raises(BadKeySet):
        parse_jwks(jwks(short), frozenset({"RS256"}))


def test_more_keys_than_the_bound_are_refused() -> None:
    with pytest.raises(BadKeySet, match="at most"):
        parse_jwks(json.dumps({"keys": [ONE.jwk] * (MAX_KEYS + 1)}).encode(), ES)


def test_two_keys_of_one_name_check_no_token_and_the_others_do() -> None:
    keys = parse_jwks(jwks(ONE, ONE, TWO), ES)
    assert choose(keys, "one", "ES256") is None
    assert choose(keys, "two", "ES256") == keys[2]
    unnamed = parse_jwks(json.dumps({"keys": [{**key.jwk, "kid": None} for key in (ONE, TWO)]}).encode(), ES)
    assert choose(unnamed, None, "ES256") is None


names = st.sampled_from([*ONE.jwk, "n", "e", "alg", "key_ops", "keys"])
published = st.recursive(
    st.none() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=6),
)


@settings(max_examples=200, deadline=None)
@given(published)
def test_whatever_is_published_the_answer_is_keys_or_a_refusal(published: object) -> None:
    for kty in ("RSA", "OKP", "EC"):
        if isinstance(published, dict):
            parse_jwk({"crv": "Ed25519", "n": 5, **published, "kty": kty}, ANY)
    for document in (published, {"keys": published}, {"keys": [published]}, {"keys": [ONE.jwk, published]}):
        try:
            keys = parse_jwks(json.dumps(document).encode(), ES)
        except BadKeySet:
            continue
        assert all(key.algorithms == ES for key in keys)
