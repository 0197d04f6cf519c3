"""JSON Web Tokens: a good one opens, every other is refused for what it is, and none is remembered for too long."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.errors import Unauthenticated
from gateway.identity.issuers import Issuer
from gateway.identity.jwks import FixedKeys, Key, parse_jwks
from gateway.identity.tokens import Verified, Verifier
from tests.support.issuers import AUDIENCE, SigningKey, issuer, jwks, raw

HOUR = 3600
KEY = SigningKey("k1")
RSA = SigningKey("r1", "RS256")
OTHERS = SigningKey("o1")
GOOD = KEY.sign()


def now() -> int:
    """Seconds since the epoch, as PyJWT sees them."""
    return int(time.time())


class Clock:
    def __init__(self) -> None:
        self.ms = now() * 1000

    def now_ms(self) -> int:
        return self.ms


def keys_for(one: Issuer, *keys: SigningKey) -> FixedKeys:
    return FixedKeys(parse_jwks(jwks(*keys), frozenset(one.algorithms)))


def verifier(clock: Clock | None = None, size: int = 100) -> Verifier:
    """Three issuers: one signs with ES256, one with RS256, one with a shared secret."""
    corp = issuer()
    bank = issuer(name="bank", issuer="https://bank.example", algorithms=["RS256", "PS256"])
    shop = issuer(name="shop", issuer="https://shop.example", algorithms=["HS256"], secret_file="s", jwks_url=None)
    secret = FixedKeys((Key(None, frozenset({"HS256"}), b"a secret that both of us know, long enough"),))
    given = [(corp, keys_for(corp, KEY)), (bank, keys_for(bank, RSA)), (shop, secret)]
    return Verifier(given, size=size, now_ms=(clock or Clock()).now_ms)


def verify(token: str, given: Verifier | None = None) -> Verified:
    return asyncio.run((given or verifier()).verify(token))


def refused(token: str, given: Verifier | None = None) -> str:
    """Why, as the log has it. What the client reads says no more than that."""
    with pytest.raises(Unauthenticated) as error:
        verify(token, given)
    assert "not accepted" in error.value.message
    assert error.value.detail is not None
    assert len(token) < 20 or token not in f"{error.value.body()}{error.value.detail}"
    return error.value.detail


def test_a_good_token_names_its_bearer_by_the_claims_that_the_file_says() -> None:
    identity = verify(KEY.sign(sub="ann", project="mobile", tier="gold")).identity
    assert (identity.issuer, identity.organisation, identity.project, identity.principal, identity.plan) == (
        "corp",
        "acme",
        "mobile",
        "ann",
        "standard",
    )


def test_each_family_of_algorithms_is_checked_with_its_own_keys() -> None:
    assert verify(RSA.sign(iss="https://bank.example")).identity.issuer == "bank"
    claims = {"iss": "https://shop.example", "aud": AUDIENCE, "sub": "ann", "exp": now() + HOUR}
    token = jwt.encode(claims, b"a secret that both of us know, long enough", algorithm="HS256")
    assert verify(token).identity.issuer == "shop"
    for algorithm in ("ES384", "ES512", "EdDSA", "PS256"):
        key = SigningKey("k", algorithm)
        one = issuer(algorithms=[algorithm])
        assert verify(key.sign(), Verifier([(one, keys_for(one, key))], size=1)).identity.principal == "ann"


def test_a_token_without_signature_is_refused() -> None:
    """`alg: none`, in any spelling."""
    payload = {"iss": "https://id.example", "aud": AUDIENCE, "sub": "ann", "exp": now() + HOUR}
    for spelling in ("none", "None", "NONE", "nOnE", "", None, 0, ["none"]):
        assert refused(raw({"alg": spelling, "kid": "k1"}, payload))
    assert refused(KEY.sign().rpartition(".")[0] + ".") == "jwt: InvalidSignatureError"


def test_a_public_key_is_never_taken_for_an_hmac_secret() -> None:
    """CVE-2026-48526: the algorithm is confused, the public key (or its JWK) signs with HMAC."""
    for key, name in ((RSA, "https://bank.example"), (KEY, "https://id.example")):
        payload = {"iss": name, "aud": AUDIENCE, "sub": "ann", "exp": now() + HOUR}
        for secret in (key.pem, json.dumps(key.jwk).encode(), str(key.jwk.get("n", key.jwk.get("x"))).encode()):
            head = {"alg": "HS256", "typ": "JWT", "kid": key.kid}
            signed = raw(head, payload).rpartition(".")[0]
            signature = hmac.digest(secret, signed.encode(), hashlib.sha256)
            forged = f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
            assert refused(forged) == "jwt: algorithm"


def test_a_key_is_used_for_algorithms_of_its_own_family_alone() -> None:
    """Even where the issuer's list were to mix them: a key carries what it may be used for."""
    mixed = frozenset({"RS256", "ES256", "HS256"})
    for key in (RSA, KEY):
        (parsed,) = parse_jwks(jwks(key), mixed)
        assert parsed.algorithms == {key.algorithm}
    secret = {"kty": "oct", "kid": "s", "k": base64.urlsafe_b64encode(b"x" * 32).decode()}
    (only,) = parse_jwks(json.dumps({"keys": [secret, RSA.jwk]}).encode(), mixed)
    assert only.kid == "r1"


def test_an_algorithm_that_is_not_the_issuers_is_refused_even_with_its_key() -> None:
    rs512 = SigningKey("r1", "RS512")
    rs512.private = RSA.private
    assert refused(rs512.sign(iss="https://bank.example")) == "jwt: algorithm"


def test_a_token_for_another_audience_is_refused() -> None:
    for audience in ("other", ["other", "catflap2"], [], "", None, 7, [["catflap"]], {"catflap": 1}):
        assert refused(KEY.sign(aud=audience))
    assert verify(KEY.sign(aud=["other", "catflap"]))


def test_a_token_of_an_unknown_issuer_is_refused() -> None:
    for name in ("https://evil.example", "https://id.example/", "HTTPS://ID.EXAMPLE", "", None):
        assert refused(KEY.sign(iss=name)) == "jwt: unknown issuer"
    for odd in (7, ["https://id.example"], {"https://id.example": 1}, True):
        assert refused(raw({"alg": "ES256", "kid": "k1"}, {"iss": odd})) == "jwt: unknown issuer"


def test_a_token_that_one_issuer_signed_in_the_name_of_another_is_refused() -> None:
    assert refused(RSA.sign(iss="https://id.example")) == "jwt: algorithm"
    one, two = issuer(), issuer(name="two", issuer="https://two.example")
    both = Verifier([(one, keys_for(one, KEY)), (two, keys_for(two, OTHERS))], size=10)
    assert verify(OTHERS.sign(iss="https://two.example"), both)
    assert refused(OTHERS.sign(), both) == "jwt: no such key"  # the kid of another issuer
    assert refused(OTHERS.sign({"kid": "k1"}), both) == "jwt: InvalidSignatureError"


def test_an_unknown_kid_is_refused() -> None:
    for kid in ("k2", "", "K1", "k1 ", "../k1", "' or 1=1 --"):
        assert refused(KEY.sign({"kid": kid})) == "jwt: no such key"
    payload = {"iss": "https://id.example"}
    for odd in (7, ["k1"], {"k1": 1}, True, "k" * 1000):
        assert refused(raw({"alg": "ES256", "kid": odd}, payload))


def test_a_token_that_names_no_key_is_checked_only_where_there_is_no_choice() -> None:
    nameless = SigningKey(None)
    nameless.private = KEY.private
    assert verify(nameless.sign())
    one = issuer()
    assert refused(nameless.sign(), Verifier([(one, keys_for(one, KEY, OTHERS))], size=10)) == "jwt: no such key"


@pytest.mark.parametrize("crit", [["exp"], ["b64"], ["x5t"], [], "b64", None, ["b64", "exp"], [1]])
def test_an_extension_that_must_be_understood_is_refused(crit: Any) -> None:
    """CVE-2026-32597: an unknown `crit` was accepted."""
    payload = {"iss": "https://id.example", "aud": AUDIENCE, "sub": "ann", "exp": now() + HOUR}
    for more in ({}, {"b64": True}, {"b64": False}):
        head = {"alg": "ES256", "kid": "k1", "crit": crit, **more}
        signed = raw(head, payload).rpartition(".")[0]
        signature = jwt.get_algorithm_by_name("ES256").sign(signed.encode(), KEY.private)
        assert refused(f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}")
    assert refused(KEY.sign({"crit": ["exp"]})) == "jwt: InvalidTokenError"


def test_an_expired_token_is_refused_once_the_leeway_is_over() -> None:
    assert refused(KEY.sign(exp=now() - 60)) == "jwt: ExpiredSignatureError"
    assert verify(KEY.sign(exp=now() - 10))
    for odd in ("tomorrow", None, str(now() + HOUR), [now()], True, float("nan"), 1e300):
        assert refused(KEY.sign(exp=odd))


def test_a_token_that_is_not_valid_yet_is_refused() -> None:
    for claim in ("nbf", "iat"):
        for value, good in ((now() + 120, False), (now() + 10, True), ("yesterday", False)):
            claims: dict[str, Any] = {claim: value}
            if good:
                verify(KEY.sign(**claims))
            else:
                assert refused(KEY.sign(**claims)) in {"jwt: ImmatureSignatureError", "jwt: DecodeError",
                                                       "jwt: InvalidIssuedAtError"}  # fmt: skip


def test_a_token_that_lives_longer_than_the_issuer_may_let_it_is_refused() -> None:
    day = 24 * HOUR
    assert refused(KEY.sign(exp=now() + day + 100)) == "jwt: lives too long"
    assert refused(KEY.sign(exp=now() + day + 100, iat=None)) == "jwt: lives too long"
    assert refused(KEY.sign(exp=now() + HOUR, iat=now() - day)) == "jwt: lives too long"
    assert verify(KEY.sign(exp=now() + day))


def test_a_token_that_is_too_long_is_refused_before_it_is_read() -> None:
    assert refused(KEY.sign(padding="x" * 9000)) == "jwt: too long"
    assert refused("x" * 50_000) == "jwt: too long"
    assert refused("e30." * 3000 + "e30") == "jwt: too long"


def test_a_token_is_of_a_type_that_is_meant_for_apis() -> None:
    for kind in ("at+jwt", "JWT", "application/at+jwt"):
        assert verify(KEY.sign({"typ": kind}))
    for kind in ("logout+jwt", "dpop+jwt", "secevent+jwt"):
        assert refused(KEY.sign({"typ": kind})) == "jwt: typ"


def test_headers_that_bring_or_point_to_keys_are_not_looked_at() -> None:
    """`jwk`, `jku`, `x5u`, `x5c`: a token may not say what it is to be checked with."""
    evil = SigningKey("k1")
    evil.private = OTHERS.private
    headers = {"jwk": OTHERS.jwk, "jku": "http://127.0.0.1:1/jwks", "x5u": "http://127.0.0.1:1/x", "x5c": ["MIIB"]}
    assert refused(evil.sign(headers)) == "jwt: InvalidSignatureError"
    assert verify(KEY.sign(headers))  # and they do not hurt


@pytest.mark.parametrize("sub", [None, "", " ann", "ann\n", "a\x00b", "\u202eann", "a" * 129, 7, ["ann"], {"a": 1}])
def test_a_failed_check_never_falls_back_to_an_empty_principal(sub: object) -> None:
    """CVE-2026-59822: a check that failed went on with an empty principal."""
    assert refused(KEY.sign(sub=sub))


def test_two_subjects_that_the_issuer_tells_apart_never_become_one_principal() -> None:
    assert verify(KEY.sign(sub="M\u00fcller")).identity.principal == "M\u00fcller"
    assert refused(KEY.sign(sub="Mu\u0308ller")) == "jwt: principal is not in its composed form"
    assert verify(KEY.sign(sub="ANN")).identity != verify(KEY.sign(sub="ann")).identity


def test_a_plan_that_the_issuer_may_not_name_is_refused() -> None:
    for tier in ("standard", "unlimited", "free", ["gold"]):
        assert refused(KEY.sign(tier=tier))
    assert verify(KEY.sign(tier="gold")).identity.plan == "standard"


@settings(max_examples=300, deadline=None)
@given(st.text() | st.from_regex(r"[A-Za-z0-9_-]{0,60}(\.[A-Za-z0-9_-]{0,60}){2}", fullmatch=True))
def test_garbage_is_refused_and_nothing_else_happens(token: str) -> None:
    refused(token)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
headers = st.fixed_dictionaries({}, optional=dict.fromkeys(("alg", "kid", "typ", "crit", "b64", "jku"), json_values))
payloads = json_values | st.fixed_dictionaries(
    {"iss": st.just("https://id.example")},
    optional=dict.fromkeys(("aud", "sub", "exp", "nbf", "iat", "tier"), json_values),
)


@settings(max_examples=300, deadline=None)
@given(headers | st.just({"alg": "ES256", "kid": "k1"}), payloads, st.binary(max_size=70))
def test_whatever_is_in_its_parts_an_unsigned_token_is_refused(header: Any, payload: object, signature: bytes) -> None:
    refused(raw(header, payload, signature))


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(["aud", "sub", "exp", "nbf", "iat", "tier", "project"]), json_values))
def test_whatever_a_trusted_issuer_signs_the_answer_is_an_identity_or_a_refusal(claims: dict[str, Any]) -> None:
    payload = {"iss": "https://id.example", "aud": AUDIENCE, "sub": "ann", "exp": now() + HOUR, **claims}
    signed = raw({"alg": "ES256", "kid": "k1"}, payload).rpartition(".")[0]
    signature = jwt.get_algorithm_by_name("ES256").sign(signed.encode(), KEY.private)
    token = f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
    try:
        identity = verify(token).identity
    except Unauthenticated:
        return
    assert identity.organisation == "acme"
    assert identity.principal == claims.get("sub", "ann")
    assert identity.plan in {"free", "standard"}


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_token_with_any_character_changed_is_refused(data: st.DataObject) -> None:
    given, token = verifier(), GOOD
    verify(token, given)  # remembered, so that a cache keyed on a part of it would let the other in
    place = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.sampled_from([c for c in "Aa0-_.=\n é" if c != token[place]]))
    changed = token[:place] + other + token[place + 1 :]
    assert given.remembered(changed) is None
    if place < len(token) - 1:  # the last character holds bits that no decoder looks at
        refused(changed, given)


def test_a_token_is_remembered_under_the_whole_of_it() -> None:
    """CVE-2026-35030: a cache keyed on a prefix of the token."""
    given, token = verifier(), KEY.sign()
    assert given.remembered(token) is None
    verified = verify(token, given)
    assert given.remembered(token) is verified
    for part in (token[:-1], token + "A", token.rpartition(".")[0], token.rpartition(".")[0] + ".AAAA"):
        assert given.remembered(part) is None


def test_a_remembered_token_never_outlives_its_end() -> None:
    clock = Clock()
    given, end = verifier(clock), now() + 100
    token = KEY.sign(exp=end)
    verify(token, given)
    clock.ms = end * 1000 - 1
    assert given.remembered(token) is not None
    clock.ms += 1
    assert given.remembered(token) is None
    assert given.count() == 0
    verify(KEY.sign(exp=now() - 10), given)  # good by the leeway alone
    assert given.count() == 0


def test_remembered_tokens_are_bounded_in_number() -> None:
    given = verifier(size=3)
    tokens = [KEY.sign(sub=f"ann {number}") for number in range(6)]
    for token in tokens:
        verify(token, given)
    assert [given.remembered(token) is not None for token in tokens] == [False] * 3 + [True] * 3


def test_a_token_whose_key_is_withdrawn_is_forgotten_with_it() -> None:
    class Withdrawn(FixedKeys):
        gone = False

        def current(self, kid: str | None, algorithm: str) -> Key | None:
            return None if self.gone else super().current(kid, algorithm)

    one = issuer()
    keys = Withdrawn(parse_jwks(jwks(KEY), frozenset(one.algorithms)))
    given, token = Verifier([(one, keys)], size=10), KEY.sign()
    verify(token, given)
    keys.gone = True
    assert given.remembered(token) is None
    assert refused(token, given) == "jwt: no such key"
