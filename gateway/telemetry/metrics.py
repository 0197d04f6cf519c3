"""Metrics of the data plane.

The hot path adds integers to a Tally; once a second the tallies are folded into Prometheus's own values, which with
several workers live in files that the metrics port adds up (`labels()` alone costs 8 us, an addition to a dict 0.1).
"""

import asyncio
from collections import defaultdict

from prometheus_client import Counter, Gauge, Histogram

from gateway.core.decision import Decision

FOLD_S = 1.0
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

requests = Counter("catflap_requests", "Requests by how they were answered", ["endpoint", "model", "status"])
refusals = Counter("catflap_refusals", "Requests that were answered with an error", ["endpoint", "code"])
tokens = Counter("catflap_tokens", "Tokens told to clients", ["model", "kind"])
denials = Counter("catflap_limit_denials", "Requests that a limit refused", ["limit", "plan"])
durations = Histogram("catflap_request_duration_seconds", "From request to last byte", ["endpoint"], buckets=SECONDS)
first_tokens = Histogram(
    "catflap_time_to_first_token_seconds", "From request to first token", ["model"], buckets=SECONDS
)
retries = Counter("catflap_upstream_retries", "Generations that went to a second endpoint", ["model"])
overruns = Counter("catflap_reservation_overruns", "Requests that used more than was reserved", ["model"])
in_flight = Gauge("catflap_in_flight_requests", "Requests under way", multiprocess_mode="livesum")
tasks = Gauge("catflap_asyncio_tasks", "asyncio tasks alive", multiprocess_mode="livesum")
redis_ready = Gauge("catflap_redis_ready", "Workers with a working connection to Redis", multiprocess_mode="livesum")
redis_breakers_open = Gauge(
    "catflap_redis_breakers_open", "Connections to Redis on which calls fail at once", multiprocess_mode="livesum"
)
redis_breaker_openings = Counter("catflap_redis_breaker_openings", "Times that a breaker opened", ["cause"])
redis_redirects = Counter("catflap_redis_redirects", "Commands that a Cluster's node sent elsewhere", ["kind"])
outbox_retained = Gauge(
    "catflap_outbox_retained", "Settlements that the ledger has not confirmed yet", multiprocess_mode="livesum"
)
outbox_resent = Counter("catflap_outbox_resent", "Settlements sent again because Redis may have lost them")
outbox_dropped = Counter("catflap_outbox_dropped", "Settlements that are guarded no longer: too many are unconfirmed")
gateways_live = Gauge("catflap_gateways_live", "Gateways that live, as last heard", multiprocess_mode="livemax")
local_decisions = Counter("catflap_local_decisions", "Requests judged while Redis was away", ["decision"])
policy_matches = Counter(
    "catflap_policy_matches", "Requests on which a policy took effect, or would have", ["policy", "mode"]
)
policy_failures = Counter(
    "catflap_policy_condition_failures", "Conditions that were neither true nor false", ["policy"]
)
contained = Counter("catflap_contained_requests", "Requests served otherwise than they were told", ["model"])
policy_misfits = Counter("catflap_policy_misfits", "Actions that could not be carried out as said", ["action"])
policy_answers_dropped = Counter(
    "catflap_policy_answers_dropped", "Answers about the words of requests that their records had no room for"
)
models_ready = Gauge(
    "catflap_models_ready", "1 when an endpoint serves the model", ["model"], multiprocess_mode="livemax"
)
settlements_late = Counter("catflap_settlements_late", "Settlements whose reservation had been reclaimed or lost")
settlements_dropped = Counter("catflap_settlements_dropped", "Settlements lost because Redis stayed away too long")
jwks_failures = Counter("catflap_jwks_failures", "Fetches of an issuer's keys that failed", ["issuer"])
admin_refusals = Counter("catflap_admin_refusals", "Requests to the admin API without the admin token")
access_lines_dropped = Counter("catflap_access_lines_dropped", "Access log lines that could not be written")


class Tally:
    """What has happened since the last fold."""

    def __init__(self) -> None:
        self.in_flight = 0
        self._requests: defaultdict[tuple[str, str, int], int] = defaultdict(int)
        self._refusals: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._tokens: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._denials: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._retries: defaultdict[str, int] = defaultdict(int)
        self._overruns: defaultdict[str, int] = defaultdict(int)
        self._decisions: list[Decision] = []
        self._contained: defaultdict[str, int] = defaultdict(int)
        self._misfits: defaultdict[str, int] = defaultdict(int)
        self._answers_dropped = 0
        self._durations: list[tuple[str, float]] = []
        self._first_tokens: list[tuple[str, float]] = []

    def request(self, endpoint: str, model: str, status: int, seconds: float) -> None:
        """One request has been answered. `model` is a name from the fleet file, or empty."""
        self._requests[endpoint, model, status] += 1
        self._durations.append((endpoint, seconds))

    def served(self, model: str, prompt_tokens: int, completion_tokens: int, first_token_s: float | None) -> None:
        """An admitted request has used tokens."""
        self._tokens[model, "prompt"] += prompt_tokens
        self._tokens[model, "completion"] += completion_tokens
        if first_token_s is not None:
            self._first_tokens.append((model, first_token_s))

    def refusal(self, endpoint: str, code: str) -> None:
        """A request was answered with an error."""
        self._refusals[endpoint, code] += 1

    def denial(self, limit: str, plan: str) -> None:
        """A limit refused a request."""
        self._denials[limit, plan] += 1

    def retry(self, model: str) -> None:
        """A generation went to a second endpoint."""
        self._retries[model] += 1

    def overrun(self, model: str) -> None:
        """A backend counted more tokens than the upper bound that was reserved: its fleet entry is wrong."""
        self._overruns[model] += 1

    def decision(self, decision: Decision) -> None:
        """Some policy had something to say."""
        self._decisions.append(decision)

    def containment(self, model: str) -> None:
        """A request was served otherwise than it was told."""
        self._contained[model] += 1

    def misfit(self, action: str) -> None:
        """An action could not be carried out as a policy says it."""
        self._misfits[action] += 1

    def answers_left_out(self, answers: int) -> None:
        """So many answers had no room in a request's record."""
        self._answers_dropped += answers

    def fold(self) -> None:
        """Hand everything over to Prometheus."""
        for (endpoint, model, status), n in _drain(self._requests):
            requests.labels(endpoint, model, str(status)).inc(n)
        for pair, n in _drain(self._refusals):
            refusals.labels(*pair).inc(n)
        for pair, n in _drain(self._tokens):
            tokens.labels(*pair).inc(n)
        for pair, n in _drain(self._denials):
            denials.labels(*pair).inc(n)
        for model, n in _drain(self._retries):
            retries.labels(model).inc(n)
        for model, n in _drain(self._overruns):
            overruns.labels(model).inc(n)
        self._fold_policies()
        _observe(durations, self._durations)
        _observe(first_tokens, self._first_tokens)
        in_flight.set(self.in_flight)

    def _fold_policies(self) -> None:
        for decision in self._decisions:
            for mode, policies in (("enforce", decision.matched), ("log", decision.logged)):
                for policy in policies:
                    policy_matches.labels(policy, mode).inc()
            for policy in decision.failed:
                policy_failures.labels(policy).inc()
        self._decisions.clear()
        for model, n in _drain(self._contained):
            contained.labels(model).inc(n)
        for action, n in _drain(self._misfits):
            policy_misfits.labels(action).inc(n)
        policy_answers_dropped.inc(self._answers_dropped)
        self._answers_dropped = 0

    async def keep_folding(self) -> None:
        """Fold for ever; one task a process."""
        while True:
            await asyncio.sleep(FOLD_S)
            self.fold()
            tasks.set(len(asyncio.all_tasks()))


def _drain(counts: defaultdict) -> list:  # type: ignore[type-arg]
    items = list(counts.items())
    counts.clear()
    return items


def _observe(histogram: Histogram, values: list[tuple[str, float]]) -> None:
    children = {label: histogram.labels(label) for label in {label for label, _ in values}}
    for label, value in values:
        children[label].observe(value)
    values.clear()
