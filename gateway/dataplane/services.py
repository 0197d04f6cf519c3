"""What the data plane works with; put together by gateway/app.py."""

from dataclasses import dataclass, field
from random import Random

from gateway.dataplane.counting import Counting
from gateway.dataplane.limits import Plans
from gateway.dataplane.resting import Resting
from gateway.dataplane.spreads import Spreads
from gateway.dataplane.usual import Usual
from gateway.evidence.writer import Writer
from gateway.fleet.health import Health
from gateway.fleet.models import Served
from gateway.fleet.router import Router
from gateway.identity.address import Networks
from gateway.identity.directory import Directory
from gateway.quota.keeper import Quota
from gateway.quota.protocol import Connection
from gateway.rules.inforce import InForce
from gateway.telemetry.log import AccessLog
from gateway.telemetry.metrics import Tally


@dataclass(frozen=True)
class Bounds:
    """Bytes and seconds that a request may take."""

    body_bytes: int
    body_s: float
    request_s: float


@dataclass(frozen=True)
class Secrets:
    """Keys of what must not be guessed: who is in a rollout, and whose phrase is whose."""

    rollout: bytes
    canary: bytes


@dataclass(frozen=True)
class Services:
    """One worker's parts."""

    bounds: Bounds
    pepper: bytes
    directory: Directory
    trusted_proxies: Networks
    plans: Plans
    models: dict[str, Served]
    health: Health
    router: Router
    redis: Connection
    quota: Quota
    tally: Tally
    access_log: AccessLog
    policies: InForce
    secrets: Secrets
    evidence: Writer
    spreads: Spreads
    counting: Counting = field(default_factory=Counting)
    resting: Resting = field(default_factory=Resting)
    usual: Usual = field(default_factory=Usual)
    """Of deciding on ordinary requests."""
    dice: Random = field(default_factory=Random)
    """The chance in decisions: fair, and nobody sees so much of it that it could be foretold."""
