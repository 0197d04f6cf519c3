"""Whose JSON Web Tokens are taken, and what their claims mean: the file `policies/issuers.yaml`.

Its JSON Schema is policies/issuers.schema.json. Nothing in a token chooses anything here but which issuer it says that
it is from; what that issuer may sign with, and for whom it may speak, is said by this file alone.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml
from msgspec import Meta

from gateway.core.caller import SCOPES
from gateway.identity.address import BadNetwork, Networks, parse_network
from gateway.identity.names import BadName, check_name

RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
EC = frozenset({"ES256", "ES384", "ES512"})
ED = frozenset({"EdDSA"})
HMAC = frozenset({"HS256", "HS384", "HS512"})
FAMILIES = (RSA, EC, ED, HMAC)
MIN_SECRET_BYTES = 32
CLAIMS = ("organisation", "project", "principal", "plan")

Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "HS256", "HS384", "HS512"
]
Text = Annotated[str, Meta(min_length=1, max_length=512)]
Listed = Annotated[tuple[Text, ...], Meta(min_length=1, max_length=64)]


class IssuerError(Exception):
    """The issuers' file cannot be used; the message is a sentence for its author."""


class BadClaims(Exception):
    """A token that is signed well, but names nobody whom its issuer may speak for. The message is for the log alone."""


class Claim(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One thing to be known of a token's bearer: a fixed `value`, or what the claim of that name says (text; a dot
    leads into an object), put through `map` and held to `allowed`. `default` stands where the claim is missing."""

    value: Text | None = None
    claim: Text | None = None
    map: dict[Text, Text] | None = None
    allowed: Listed | None = None
    default: Text | None = None


class ClaimsSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whom a token names."""

    organisation: Claim
    project: Claim
    principal: Claim
    plan: Claim


class Issuer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One issuer. Exactly one of `jwks_url`, `jwks_file` and `secret_file` says what its tokens are checked with; files
    are looked for beside this one. Times in seconds."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
    issuer: Text
    """The claim `iss`, letter for letter."""
    audience: Listed
    """At least one of them must be in the claim `aud`."""
    algorithms: Annotated[tuple[Algorithm, ...], Meta(min_length=1)]
    """Of one family: RS/PS, ES, EdDSA, or, with a `secret_file` only, HS."""
    claims: ClaimsSpec
    jwks_url: Annotated[str, Meta(pattern=r"^https?://[^/?#@\s]+(/[^?#\s]*)?(\?[^#\s]*)?$")] | None = None
    jwks_file: Text | None = None
    secret_file: Text | None = None
    """A symmetric secret of 32 bytes or more."""
    kind: Literal["person", "service"] = "person"
    leeway_s: Annotated[int, Meta(ge=0, le=300)] = 30
    max_token_bytes: Annotated[int, Meta(ge=256, le=16384)] = 8192
    max_lifetime_s: Annotated[int, Meta(ge=60, le=31_536_000)] = 86_400
    """From the claim `iat`, or from now where there is none, to `exp`."""
    refresh_s: Annotated[int, Meta(ge=10, le=86_400)] = 300
    """How often `jwks_url` is fetched again."""
    fetch_pause_s: Annotated[int, Meta(ge=1, le=3600)] = 10
    """The shortest time between two fetches, whatever tokens come."""
    keys_good_for_s: Annotated[int, Meta(ge=60, le=604_800)] = 3600
    """How long the last keys are good while `jwks_url` does not answer; then tokens get 503."""
    scopes: Listed | None = None
    models: Listed | None = None
    addresses: Listed | None = None
    tags: tuple[Text, ...] = ()


class IssuersFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    api_version: Literal["catflap/v1"] = msgspec.field(name="apiVersion")
    kind: Literal["Issuers"]
    issuers: Annotated[tuple[Issuer, ...], Meta(max_length=64)]


class Identity(msgspec.Struct, frozen=True):
    """Whom a token names, all by name; the directory turns the names into ids. Two that are equal are one entry."""

    issuer: str
    organisation: str
    project: str
    principal: str
    kind: str
    plan: str
    scopes: frozenset[str] | None = None
    models: frozenset[str] | None = None
    networks: Networks | None = None
    tags: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Under what it is remembered. No name holds a control character, so the parts cannot run together."""
        parts = (self.issuer, self.organisation, self.project, self.principal, self.plan)
        return "jwt:" + "\0".join(parts)


def read_issuers(folder: Path) -> tuple[Issuer, ...]:
    """The issuers of the policies' folder; none where it has no file `issuers.yaml`. Raises IssuerError."""
    path = folder / "issuers.yaml"
    try:
        return parse_issuers(path.read_bytes(), str(path)) if path.exists() else ()
    except OSError as problem:
        raise IssuerError(f"{path} cannot be read ({problem.strerror}).") from None


def parse_issuers(data: bytes, name: str) -> tuple[Issuer, ...]:
    """The issuers in the file `name` with the bytes `data`. Raises IssuerError."""
    try:
        issuers = msgspec.convert(yaml.safe_load(data), IssuersFile).issuers
    except yaml.YAMLError as problem:
        raise IssuerError(f"{name} is not valid YAML: {' '.join(str(problem).split())}") from None
    except (msgspec.ValidationError, RecursionError) as problem:
        raise IssuerError(f"{name}: {problem}") from None
    for field in ("name", "issuer"):
        values = [getattr(issuer, field) for issuer in issuers]
        if len(values) != len(set(values)):
            raise IssuerError(f"{name}: two issuers have the same `{field}`; keep one of them.")
    for issuer in issuers:
        for fault in faults(issuer, alone=len(issuers) == 1):
            raise IssuerError(f"{name}: issuer {issuer.name!r}: {fault}")
    return issuers


def faults(issuer: Issuer, *, alone: bool) -> list[str]:
    """What the types do not say, in sentences."""
    found = []
    if sum(way is not None for way in (issuer.jwks_url, issuer.jwks_file, issuer.secret_file)) != 1:
        found.append("give exactly one of `jwks_url`, `jwks_file` and `secret_file`.")
    families = [family for family in FAMILIES if family & set(issuer.algorithms)]
    if len(families) != 1:
        found.append("its `algorithms` must be of one family: RS and PS, ES, EdDSA, or HS.")
    elif (families[0] is HMAC) != (issuer.secret_file is not None):
        found.append("HS algorithms and `secret_file` go together, and neither goes with anything else.")
    unknown = [scope for scope in issuer.scopes or () if scope not in SCOPES]
    found += [f"{scope!r} is no scope: there are {', '.join(SCOPES)}." for scope in unknown]
    try:
        networks_of(issuer)
    except BadNetwork as problem:
        found.append(f"{problem}.")
    for field in CLAIMS:
        found += claim_faults(field, getattr(issuer.claims, field), alone=alone)
    return found


def claim_faults(field: str, claim: Claim, *, alone: bool) -> list[str]:
    """The same for one claim."""
    if (claim.value is None) == (claim.claim is None):
        return [f"`{field}` takes either a fixed `value` or the name of a `claim`."]
    if claim.value is not None:
        if claim.map or claim.allowed or claim.default:
            return [f"`{field}` has a fixed `value`: `map`, `allowed` and `default` go with a `claim` only."]
        return name_faults(field, claim.value)
    found = []
    bound = claim.map is not None or claim.allowed is not None
    if field == "plan" and not bound:
        found.append("`plan` comes from a claim: list the plans that it may name in `allowed`, or give a `map`.")
    if field == "organisation" and not bound and not alone:
        found.append("`organisation` comes from a claim, and there are other issuers: list those that this one may "
                     "speak for in `allowed`, or give a `map`.")  # fmt: skip
    for text in (*(claim.map or {}).values(), *(claim.allowed or ()), *filter(None, [claim.default])):
        found += name_faults(field, text)
    return found


def name_faults(field: str, text: str) -> list[str]:
    try:
        return [] if check_name(f"{field}'s name", text) == text else [f"{text!r} is not in its composed form (NFC)."]
    except BadName as problem:
        return [f"{problem}."]


def networks_of(issuer: Issuer) -> Networks | None:
    """Where the issuer's tokens may be used from. Raises BadNetwork."""
    return None if issuer.addresses is None else tuple(parse_network(address) for address in issuer.addresses)


def identity_of(issuer: Issuer, payload: Mapping[str, Any]) -> Identity:
    """Whom the (verified) payload names. Raises BadClaims."""
    organisation, project, principal, plan = (
        claimed(field, getattr(issuer.claims, field), payload) for field in CLAIMS
    )
    return Identity(
        issuer=issuer.name,
        organisation=organisation,
        project=project,
        principal=principal,
        kind=issuer.kind,
        plan=plan,
        scopes=None if issuer.scopes is None else frozenset(issuer.scopes),
        models=None if issuer.models is None else frozenset(issuer.models),
        networks=networks_of(issuer),
        tags=issuer.tags,
    )


def claimed(field: str, claim: Claim, payload: Mapping[str, Any]) -> str:
    """What the payload says of one thing. Raises BadClaims."""
    if claim.value is not None:
        return claim.value
    assert claim.claim is not None
    found = look_up(claim.claim, payload)
    if found is None and claim.default is not None:
        return claim.default
    if not isinstance(found, str):
        raise BadClaims(f"no {field}: the claim is missing or no text")
    if claim.map is not None:
        found = claim.map.get(found, found if claim.allowed else "")
    if (claim.allowed is not None and found not in claim.allowed) or not found:
        raise BadClaims(f"{field} is none that the issuer may name")
    try:
        composed = check_name(field, found)
    except BadName:
        raise BadClaims(f"{field} cannot be a name") from None
    # Two names that the issuer tells apart must never become one principal here.
    if composed != found:
        raise BadClaims(f"{field} is not in its composed form")
    return found


def look_up(path: str, payload: Mapping[str, Any]) -> object:
    """The claim of exactly this name, else, along the dots, the one inside of objects; None where there is none."""
    if path in payload:
        return payload[path]
    found: object = payload
    for part in path.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def issuers_schema() -> dict[str, object]:
    """The JSON Schema of the file."""
    return msgspec.json.schema(IssuersFile)
