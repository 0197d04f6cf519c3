"""Metrics of the ruleset in force, for Prometheus. Only where one is held: elsewhere a gauge that nobody sets would say
that something is wrong."""

from prometheus_client import Counter, Gauge

ok = Gauge(
    "catflap_policy_ok", "1 when the ruleset that should be in force is, in every worker", multiprocess_mode="livemin"
)
containment = Gauge(
    "catflap_policy_containment", "1 when containment is on, in every worker", multiprocess_mode="livemin"
)
version = Gauge("catflap_policy_version", "Workers that run this ruleset", ["version"], multiprocess_mode="livesum")
load_failures = Counter(
    "catflap_policy_load_failures", "Times that what should be in force began not to be, or failed otherwise", ["part"]
)
