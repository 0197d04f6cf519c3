"""One run: houses with four gateways each, over one kind of Redis each, and the verdicts on every limit."""

import asyncio
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from lab.bench.errors import BenchError
from lab.exactness.audit import Ask, Fate, Verdict, audit_slots, audit_window
from lab.exactness.cases import COSTS, KEYS, WEIGHTS, Case, Load, Size, cases
from lab.house.client import Line, Seen
from lab.house.house import House
from lab.house.redis import RedisHouse, version

GATEWAYS = 4
FAULTY = GATEWAYS - 1
"""The gateway that has the planted plans."""
WINDOWS = {"minute": (60.0, 1.0), "day": (86_400.0, 900.0), "month": (40 * 86_400.0, 0.0)}
"""Length and bucket in seconds; a run within one month sees none end."""
USED = 0.97
"""The least that must be used of a limit."""
STEPPED_S = 0.05
"""The wall clock may not have moved so much against the other: Redis counts by it, the auditor does not."""
REDIS_PATIENCE_MS = "5000"
"""A busy machine must not turn admissions into requests of unknown fate."""

Say = Callable[[str], None]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on one limit of one subject."""

    redis: str
    kind: str
    level: str
    subject: str
    planted: bool
    verdict: Verdict
    asks: list[Ask]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run."""

    findings: list[Finding]

    def json(self) -> str:
        """Every verdict, and every request that it is about."""
        return msgspec.json.encode(self).decode()

    @property
    def honest(self) -> list[Finding]:
        return [one for one in self.findings if not one.planted]

    @property
    def planted(self) -> list[Finding]:
        return [one for one in self.findings if one.planted]

    @property
    def problems(self) -> list[str]:
        """In sentences; none when every limit was exact and every planted fault was found."""
        found = [f"{name(one)}: {one.verdict.over} above the limit." for one in self.honest if one.verdict.over]
        found += [
            f"{name(one)}: {one.verdict.wrong} refusals without cause." for one in self.honest if one.verdict.wrong
        ]
        found += [f"{name(one)}: {one.verdict.used:.1%} used." for one in self.honest if one.verdict.used < USED]
        found += [f"{name(one)}: a planted fault was not found." for one in self.planted if not one.verdict.over]
        return found


def name(finding: Finding) -> str:
    return f"Redis {finding.redis}, {finding.kind} of the {finding.level}, {finding.subject}"


def run(kinds: Sequence[str], load: Load, *, together: bool = False, say: Say = lambda line: None) -> Result:
    """All cases on each kind of Redis, one kind after the other or all `together`. Raises BenchError."""
    return asyncio.run(run_async(kinds, load, together=together, say=say))


async def run_async(kinds: Sequence[str], load: Load, *, together: bool, say: Say) -> Result:
    """`run` in an event loop that is there already."""
    if together:
        done = await asyncio.gather(*(_one_kind(kind, load, say) for kind in kinds))
    else:
        done = [await _one_kind(kind, load, say) for kind in kinds]
    return Result(findings=[finding for findings in done for finding in findings])


async def _one_kind(kind: str, load: Load, say: Say) -> list[Finding]:
    tried = cases(load)
    with tempfile.TemporaryDirectory(prefix="cf-exact-") as created:
        house = House(
            Path(created),
            RedisHouse(kind, Path(created) / "redis"),
            plans={case.name: [case.limit()] for case in tried},
            gateways=GATEWAYS,
            hold_ms=round(load.hold_s * 1000),
            weights=WEIGHTS,
            costs=COSTS,
            workers=(),
            settings={"CATFLAP_REDIS_TIMEOUT_MS": REDIS_PATIENCE_MS, "CATFLAP_ACCESS_LOG": "false"},
        )
        wrong = {case.name: [case.wrong_limit() if case.planted else case.limit()] for case in tried}
        house.policies_for(FAULTY, wrong)
        try:
            await house.start()
            say(f"Redis {version(kind)} ({kind}): {GATEWAYS} gateways, {sum(len(c.clients) for c in tried)} clients")
            logs = await _ask_all(house, tried, load)
        finally:
            await house.stop()
    findings = [finding for case in tried for finding in judge(kind, case, load, logs[case.name])]
    say(f"Redis {kind}: {sum(len(one.asks) for one in findings)} requests judged")
    return findings


Log = list[tuple[int, Size, Seen]]
"""Key, size, and what was seen of each request."""


async def _ask_all(house: House, tried: Sequence[Case], load: Load) -> dict[str, Log]:
    """Every client asks until time is up. Raises BenchError if the clock was stepped meanwhile."""
    tokens = {
        case.name: [(await house.key(case.name, *names, case.name)).token for names in KEYS] for case in tried
    }  # fmt: skip
    logs: dict[str, Log] = {case.name: [] for case in tried}
    before = time.time() - time.monotonic()
    end = time.monotonic() + load.seconds
    await asyncio.gather(
        *(
            _ask_until(
                end - case.least_s(load),
                house,
                case,
                key,
                tokens[case.name][key],
                logs[case.name],
                random.Random(f"{case.name}{n}"),
            )
            for case in tried
            for n, key in enumerate(case.clients)
        )
    )
    if abs(time.time() - time.monotonic() - before) > STEPPED_S:
        raise BenchError("The machine's clock was stepped during the run; nothing can be said. Run it again.")
    return logs


async def _ask_until(
    end: float, house: House, case: Case, key: int, token: str, log: Log, chance: random.Random
) -> None:
    """One client: through any gateway, at its pace, or as fast as it is answered where that is slower."""
    lines = [Line(gateway.port) for gateway in house.gateways]
    due = time.monotonic() + chance.random() * case.pause_s
    while due < end:
        await asyncio.sleep(due - time.monotonic())
        size = case.size(chance)
        body = {"model": case.model, "prompt": "x" * size.prompt, "max_tokens": size.output}
        body |= {"stream": True, "stream_options": {"include_usage": True}} if case.kind == "concurrency" else {}
        log.append((key, size, await chance.choice(lines).post("/v1/completions", token, body)))
        due = max(due + case.pause_s, time.monotonic())
    for line in lines:
        line.close()


def judge(kind: str, case: Case, load: Load, log: Log) -> list[Finding]:
    """The verdict on each subject of a case. Raises BenchError where a client was told what no limit says."""
    asks: dict[str, list[Ask]] = {case.subject(key): [] for key in range(len(KEYS))}
    for key, size, seen in log:
        asks[case.subject(key)].append(ask_of(case, size, seen))
    findings = []
    for subject, theirs in asks.items():
        theirs.sort(key=lambda ask: ask.sent)
        if case.kind == "concurrency":
            clients = sum(case.subject(key) == subject for key in case.clients)
            verdict = audit_slots(theirs, case.units, load.hold_s, clients)
        else:
            verdict = audit_window(theirs, case.units, *WINDOWS[case.kind.rpartition("_")[2]])
        findings.append(
            Finding(
                redis=kind,
                kind=case.kind,
                level=case.level,
                subject=subject,
                planted=case.planted,
                verdict=verdict,
                asks=theirs,
            )
        )
    return findings


def ask_of(case: Case, size: Size, seen: Seen) -> Ask:
    """What the auditor gets to see of a request."""
    fate: Fate = "unknown"
    if seen.status == 429:
        fate = "refused"
    elif seen.status == 200 and seen.whole:
        fate = "admitted"
        if (seen.prompt_tokens, seen.completion_tokens) != (size.prompt, size.output):
            raise BenchError(
                f"{case.name}: a request of {size} was told {seen.prompt_tokens}, {seen.completion_tokens}."
            )
    elif 400 <= seen.status < 500:
        raise BenchError(f"{case.name}: {seen.status} {seen.message}")
    return Ask(seen.sent, seen.last if seen.first is None else seen.first, seen.last, size.units(case.kind), fate)
