"""The issuers' file: mistakes are told in one sentence, and claims mean what it says."""

from typing import Any

import msgspec
import pytest
import yaml

from gateway.identity.issuers import BadClaims, Claim, IssuerError, claimed, identity_of, parse_issuers
from gateway.identity.keyrings import keys_of
from tests.support.issuers import SPEC, SigningKey, issuer, jwks


def written(*issuers: dict[str, Any]) -> bytes:
    return yaml.safe_dump({"apiVersion": "catflap/v1", "kind": "Issuers", "issuers": list(issuers)}).encode()


def with_claims(**claims: dict[str, Any]) -> dict[str, Any]:
    return {**SPEC, "claims": {**SPEC["claims"], **claims}}


OTHER = {**SPEC, "name": "other", "issuer": "https://other.example"}


def test_a_file_with_two_issuers_is_read() -> None:
    names = [one.name for one in parse_issuers(written(SPEC, OTHER), "issuers.yaml")]
    assert names == ["corp", "other"]
    assert parse_issuers(written(), "issuers.yaml") == ()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"jwks_url": None}, "exactly one of"),
        ({"jwks_file": "keys.json"}, "exactly one of"),
        ({"algorithms": ["RS256", "HS256"]}, "one family"),
        ({"algorithms": ["ES256", "RS256"]}, "one family"),
        ({"algorithms": ["HS256"]}, "go together"),
        ({"secret_file": "s", "jwks_url": None}, "go together"),
        ({"algorithms": ["none"]}, "none"),
        ({"algorithms": []}, "algorithms"),
        ({"audience": []}, "audience"),
        ({"issuer": ""}, "issuer"),
        ({"name": "A b"}, "name"),
        ({"jwks_url": "file:///etc/passwd"}, "jwks_url"),
        ({"jwks_url": "https://user:secret@id.example/jwks"}, "jwks_url"),
        ({"leeway_s": 301}, "leeway_s"),
        ({"max_token_bytes": 1_000_000}, "max_token_bytes"),
        ({"scopes": ["admin"]}, "no scope"),
        ({"addresses": ["10.0.0.1/8"]}, "10.0.0.0/8"),
        ({"verify": False}, "verify"),
        ({"claims": {"organisation": {"value": "acme"}}}, "project"),
        (with_claims(plan={"claim": "tier"}), "`allowed`, or give a `map`"),
        (with_claims(plan={}), "either a fixed `value`"),
        (with_claims(plan={"value": "free", "claim": "tier"}), "either a fixed `value`"),
        (with_claims(plan={"value": "free", "default": "gold"}), "go with a `claim` only"),
        (with_claims(organisation={"value": "acme "}), "end with a space"),
        (with_claims(organisation={"value": "Mu\u0308ller"}), "composed form"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_the_file(fields: dict[str, Any], words: str) -> None:
    wrong = {name: value for name, value in {**SPEC, **fields}.items() if value is not None}
    with pytest.raises(IssuerError) as refused:
        parse_issuers(written(wrong), "policies/issuers.yaml")
    assert words in str(refused.value)
    assert "policies/issuers.yaml" in str(refused.value)
    assert "secret@" not in str(refused.value)


def test_what_is_no_issuers_file_is_refused() -> None:
    for data in (b"", b"[", b"- 1", b"issuers: []", b"\xff\xfe\xff", written(SPEC, SPEC), b"&a [*a]"):
        with pytest.raises(IssuerError):
            parse_issuers(data, "issuers.yaml")


def test_one_of_several_issuers_may_speak_only_for_organisations_that_are_listed() -> None:
    free = with_claims(organisation={"claim": "org"})
    assert parse_issuers(written(free), "f")
    with pytest.raises(IssuerError, match="there are other issuers"):
        parse_issuers(written(free, OTHER), "f")
    for bound in ({"allowed": ["acme"]}, {"map": {"1": "acme"}}):
        assert parse_issuers(written(with_claims(organisation={"claim": "org", **bound}), OTHER), "f")


@pytest.mark.parametrize(
    ("claim", "payload", "expected"),
    [
        (Claim(value="acme"), {"org": "evil"}, "acme"),
        (Claim(claim="org"), {"org": "acme"}, "acme"),
        (Claim(claim="org", default="acme"), {}, "acme"),
        (Claim(claim="org", default="acme"), {"org": None}, "acme"),
        (Claim(claim="org", default="acme"), {"org": 7}, None),
        (Claim(claim="org"), {}, None),
        (Claim(claim="org", allowed=("acme",)), {"org": "acme"}, "acme"),
        (Claim(claim="org", allowed=("acme",)), {"org": "evil"}, None),
        (Claim(claim="org", map={"1": "acme"}), {"org": "1"}, "acme"),
        (Claim(claim="org", map={"1": "acme"}), {"org": "acme"}, None),
        (Claim(claim="org", map={"1": "acme"}, allowed=("acme", "beta")), {"org": "beta"}, "beta"),
        (Claim(claim="a.b"), {"a": {"b": "acme"}}, "acme"),
        (Claim(claim="a.b"), {"a.b": "acme", "a": {"b": "evil"}}, "acme"),
        (Claim(claim="https://x.example/org"), {"https://x.example/org": "acme"}, "acme"),
        (Claim(claim="a.b"), {"a": ["b"]}, None),
    ],
)
def test_a_claim_means_what_the_file_says(claim: Claim, payload: dict[str, Any], expected: str | None) -> None:
    if expected is None:
        with pytest.raises(BadClaims):
            claimed("organisation", claim, payload)
    else:
        assert claimed("organisation", claim, payload) == expected


def test_what_the_file_holds_an_issuer_to_its_bearers_are_held_to() -> None:
    one = issuer(scopes=["chat"], models=["demo"], addresses=["10.0.0.0/8"], tags=["sso"], kind="service")
    identity = identity_of(one, {"sub": "ann"})
    assert identity.scopes == frozenset({"chat"})
    assert identity.models == frozenset({"demo"})
    assert [str(network) for network in identity.networks or ()] == ["10.0.0.0/8"]
    assert (identity.tags, identity.kind) == (("sso",), "service")


def test_identities_that_differ_are_never_remembered_as_one() -> None:
    names = ["a", "ab", "b", "a b", "a\u00a0b"]
    ids = {
        identity_of(
            msgspec.convert(with_claims(organisation={"claim": "o"}), type(issuer())), {"sub": sub, "o": org}
        ).id
        for sub in names
        for org in names
    }
    assert len(ids) == len(names) ** 2


def test_keys_in_files_are_read_from_beside_the_issuers_file(tmp_path: Any) -> None:
    (tmp_path / "keys.json").write_bytes(jwks(SigningKey("k1")))
    (tmp_path / "secret").write_bytes(b"x" * 32 + b"\n")
    (tmp_path / "short").write_bytes(b"x" * 31)
    assert keys_of(issuer(jwks_url=None, jwks_file="keys.json"), tmp_path).current("k1", "ES256") is not None
    shared = {"jwks_url": None, "algorithms": ["HS256"]}
    assert keys_of(issuer(**shared, secret_file="secret"), tmp_path).current(None, "HS256") is not None
    for wrong, words in (
        (issuer(**shared, secret_file="short"), "32 bytes"),
        (issuer(jwks_url=None, jwks_file="none"), "cannot be read"),
        (issuer(jwks_url=None, jwks_file="secret"), "no JWKS"),
    ):
        with pytest.raises(IssuerError, match=words):
            keys_of(wrong, tmp_path)
