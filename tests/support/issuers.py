"""Issuers of JSON Web Tokens for tests: their keys, the tokens that they sign, what the issuers' file says of them."""

import base64
import json
import time
from functools import cache
from pathlib import Path
from typing import Any

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import get_default_algorithms

from gateway.identity.issuers import Issuer

AUDIENCE = "catflap"
SPEC: dict[str, Any] = {
    "name": "corp",
    "issuer": "https://id.example",
    "audience": [AUDIENCE],
    "algorithms": ["ES256"],
    "jwks_url": "https://id.example/jwks",
    "claims": {
        "organisation": {"value": "acme"},
        "project": {"claim": "project", "default": "web"},
        "principal": {"claim": "sub"},
        "plan": {"claim": "tier", "map": {"gold": "standard"}, "default": "free"},
    },
}


class SigningKey:
    """A private key with its id; `jwk` is what its issuer publishes."""

    def __init__(self, kid: str | None, algorithm: str = "ES256") -> None:
        self.kid = kid
        self.algorithm = algorithm
        self.private: Any = private_key(algorithm, str(kid))

    @property
    def jwk(self) -> dict[str, Any]:
        public = self.private.public_key()
        entry: dict[str, Any] = get_default_algorithms()[self.algorithm].to_jwk(public, as_dict=True)
        entry.pop("key_ops", None)
        return {**entry, "use": "sig", **({} if self.kid is None else {"kid": self.kid})}

    @property
    def pem(self) -> bytes:
        """The public key, as anybody may have it."""
        pem: bytes = self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return pem

    def sign(self, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """A token; without more a good one for an hour. A claim that is None is left out."""
        now = int(time.time())
        standard = {"iss": SPEC["issuer"], "aud": AUDIENCE, "sub": "ann", "iat": now, "exp": now + 3600}
        payload = {name: value for name, value in {**standard, **claims}.items() if value is not None}
        headers = {**({} if self.kid is None else {"kid": self.kid}), **(header or {})}
        return jwt.encode(payload, self.private, algorithm=self.algorithm, headers=headers)


@cache
def private_key(algorithm: str, _name: str) -> Any:
    """Made once for each name: RSA keys take long."""
    if algorithm.startswith(("RS", "PS")):
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    curves: dict[str, ec.EllipticCurve] = {
        "ES256": ec.SECP256R1(),
        "ES384": ec.SECP384R1(),
        "ES512": ec.SECP521R1(),
    }
    return ec.generate_private_key(curves[algorithm])


def write_issuers(folder: Path, *, plans: list[str]) -> None:
    """An issuers' file and its keys."""
    claims = {
        **SPEC["claims"],
        "organisation": {"claim": "org"},
        "plan": {"claim": "plan", "allowed": plans, "default": plans[0]},
    }
    one = {**SPEC, "claims": claims, "jwks_file": "world.jwks.json"}
    del one["jwks_url"]
    (folder / "world.jwks.json").write_bytes(jwks(WORLD_KEY))
    (folder / "issuers.yaml").write_text(json.dumps({"apiVersion": "catflap/v1", "kind": "Issuers", "issuers": [one]}))


def jwks(*keys: SigningKey) -> bytes:
    """What an issuer publishes."""
    return json.dumps({"keys": [key.jwk for key in keys]}).encode()


def issuer(**fields: Any) -> Issuer:
    """An issuer as the file would give it."""
    return msgspec.convert({**SPEC, **fields}, Issuer)


def raw(header: dict[str, Any], payload: object, signature: bytes = b"") -> str:
    """A token of any parts."""
    parts = [json.dumps(header).encode(), json.dumps(payload).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


WORLD_KEY = SigningKey("world")
"""Signs for the one issuer of the world (gateways.py), whose bearers choose their organisation and plan."""
