"""The callers of `bench quota`: plans with 1, 4 and 16 limits, and a Redis that knows very many keys."""

from collections.abc import Iterator
from itertools import islice
from typing import Any, get_args

import msgspec

from gateway.core.caller import Caller
from gateway.core.event import RequestEvent
from gateway.core.ids import partition_of
from gateway.limits.plans import Level, Limit, LimitSpec, Measure, Period, Plan, PlanMetadata, PlanSpec, binding
from gateway.limits.weights import Weights
from gateway.quota import keys

PARTITIONS = 64
MODEL = "mock"
PRICE = Weights()
LEVELS: tuple[Level, ...] = get_args(Level)
MEASURES: tuple[tuple[Measure, Period | None], ...] = (
    ("requests", "minute"),
    ("tokens", "minute"),
    ("concurrency", None),
    ("cost", "month"),
)
LIMITS: dict[int, tuple[LimitSpec, ...]] = {
    1: (LimitSpec("tokens", 10**9, "minute", "key"),),
    4: (
        LimitSpec("tokens", 10**9, "minute", "key"),
        LimitSpec("requests", 10**9, "minute", "key"),
        LimitSpec("concurrency", 10**9, None, "principal"),
        LimitSpec("cost", 10**9, "month", "organisation"),
    ),
    16: tuple(LimitSpec(measure, 10**9, period, level) for level in LEVELS for measure, period in MEASURES),
}
"""How many limits bind -> which. Each plan limits the key's tokens a minute: the state that all keys of the crowd have.
"""
KEPT_MS = 3_600_000
"""Life of the crowd's state in Redis: longer than a run, where a window's is two minutes."""
BATCH = 5_000


class Bench(msgspec.Struct, frozen=True):
    """One caller with the limits that bind it, in an organisation of its own."""

    caller: Caller
    limits: tuple[Limit, ...]

    def event(self, request: str) -> RequestEvent:
        """The event of its request, not settled yet."""
        who = self.caller
        return RequestEvent(
            request=request,
            organisation=who.organisation,
            project=who.project,
            principal=who.principal,
            key=who.key,
            plan=who.plan,
            endpoint="chat",
            model=MODEL,
            at_ms=0,
            outcome="completed",
            status=200,
        )


def caller_of(number: int, limits: int) -> Bench:
    """Caller number so, under the plan with so many limits. Ids are as long as real ones."""
    name = f"{number:017d}"
    plan = Plan("catflap/v1", "Plan", PlanMetadata(f"bench{limits}", ""), PlanSpec(1, LIMITS[limits]))
    caller = Caller(
        organisation=f"org_{name}", project=f"proj_{name}", principal=f"prin_{name}", key=f"key_{name}", plan="bench"
    )
    return Bench(caller, binding(plan, caller, (MODEL,), PRICE))


def crowd(server: Any, number: int) -> None:
    """Give Redis the window of so many keys, each as one request would leave it: the first key's, copied."""
    pattern = caller_of(0, 1)
    payload = server.dump(_window(pattern))
    names = (_window(caller_of(n, 1)) for n in range(1, number))
    while batch := list(islice(names, BATCH)):
        pipe = server.pipeline(transaction=False)
        for name in batch:
            pipe.restore(name, KEPT_MS, payload, replace=True)
        pipe.execute()
    server.pexpire(_window(pattern), KEPT_MS)


def state_keys(bench: Bench) -> Iterator[tuple[Limit, str]]:
    """A caller's windows in Redis."""
    partition = partition_of(bench.caller.organisation, PARTITIONS)
    for limit in bench.limits:
        if limit.window_ms:
            yield limit, keys.limit_key(partition, limit.subject, limit.name)


def fill_window(server: Any, bench: Bench) -> None:
    """Make a caller look as if it had asked in every bucket of its windows: the most that its state can weigh."""
    for limit, name in state_keys(bench):
        head, span = int(server.hget(name, "head")), limit.window_ms // limit.bucket_ms
        server.hset(name, mapping={str(bucket): 1000 for bucket in range(head - span, head)} | {"tail": head - span})


def _window(bench: Bench) -> str:
    return next(name for _, name in state_keys(bench))
