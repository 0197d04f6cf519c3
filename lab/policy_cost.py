"""What policies cost: processor time of one decision, and records and events a second in simulation.
`python -m lab.policy_cost [KIND ...]`; a kind is the beginning of a row's name.

Times are of the thread's own processor (other work on the machine does not count, but the caches that it empties do),
the best of several rounds.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from gateway.core.event import RequestEvent
from gateway.core.event import encode as encode_event
from gateway.core.facts import ClientFacts, Facts, PrincipalFacts, RequestFacts, Roll, now_facts
from gateway.policy.decide import decide
from gateway.policy.loader import Policy, parse_policy
from gateway.policy.record import Opening, Stored, encode, record_of
from gateway.policy.ruleset import Ruleset, build_ruleset
from gateway.policy.simulate import Simulator, simulate
from gateway.rules.recorded import simulate_lines

RULES = 100
ROUNDS = 12
LINES = 3000
SHIPPED = Path(__file__).parents[1] / "policies" / "rules"
WORDS = "hello world, this is an ordinary question about ships. " * 20

CONDITIONS: dict[str, tuple[str, ...]] = {
    "none can match: state and model": ('principal.state == "contained" && request.model == "m{n}"',),
    "plain facts": ('principal.age_days < {n} && client.country in ["aa", "b{n}"] && principal.score > 0.5',),
    "mixed": (
        'principal.state in ["contained", "watch"] && principal.age_days < {n}',
        'request.endpoint == "chat" && request.prompt_tokens > 90{n}0',
        'principal.plan == "p{n}" && signals.probe > 0.5',
        'signals.content > 0.9 && !("vip" in principal.tags) && request.n != {n}',
        'signals.probe > 0.9 && request.user_text.contains("phrase {n}")',
    ),
    "mixed: numbers that always differ": (
        "request.prompt_tokens > 90{n}0 && request.max_tokens > 10{n}",
        'principal.score > 1.{n} && client.user_agent != "agent {n}"',
        'request.endpoint == "chat" && request.text_length > 90{n}0 && now.minute < {n}',
        'principal.state in ["normal", "watch"] && principal.age_days < {n} && now.unix > 1700000{n}',
        'principal.age_days > 9{n} && request.prompt_tokens < {n} && request.user_text.contains("phrase {n}")',
    ),
    "a phrase in 1,100 characters, each": ('request.user_text.contains("some phrase {n}") && request.n < 9',),
    "a pattern in 1,100 characters, each": (
        'request.user_text.matches("(some|any) (phrase|word) {n}") && request.n < 9',
    ),
    "divisions, each by itself": ("1000 / (request.prompt_tokens + {n}) > 90",),
}


class Row(NamedTuple):
    name: str
    new_us: float
    again_us: float
    build_ms: float
    simulated_per_s: float
    events_per_s: float


def main() -> None:
    print(f"{RULES} rules, 3,000 requests of 200 principals, and one again and again; none matches")
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(f"{'rules':40} {'requests':>10} {'the same':>10} {'compile all':>14} {'records':>12} {'events':>12}")
    for name, files in rulesets():
        if sys.argv[1:] and not name.startswith(tuple(sys.argv[1:])):
            continue
        row = measured(name, files)
        print(
            f"{row.name:40} {row.new_us:7.1f} us {row.again_us:7.1f} us {row.build_ms:11.1f} ms"
            f" {row.simulated_per_s:9,.0f} /s {row.events_per_s:9,.0f} /s"
        )


def rulesets() -> Iterator[tuple[str, list[bytes]]]:
    """Each row's name and its rules: `RULES` of them with its conditions in turn, or those that are shipped."""
    for name, conditions in CONDITIONS.items():
        yield name, [file_of(conditions[number % len(conditions)], number) for number in range(RULES)]
    yield "the shipped rules", [file.read_bytes() for file in sorted(SHIPPED.glob("*.yaml"))]


def measured(name: str, files: list[bytes]) -> Row:
    """The costs of these rules."""
    built: list[Ruleset] = []
    build_s = best(lambda: built.append(build_ruleset(loaded(files))), 1, 3)
    rules = built[-1]
    requests = [request(number) for number in range(LINES)]
    new_s = best(lambda: [decide(facts, rules, Roll()) for facts in requests], 1, 4) / LINES
    again_s = best(lambda: decide(requests[0], rules, Roll()), 100, ROUNDS)
    lines = [encode(record_of(facts, Roll(), decide(facts, rules, Roll()), "req_1")) for facts in requests]
    decode = msgspec.json.Decoder(Stored).decode
    simulate_s = best(lambda: simulate(map(Opening().open, map(decode, lines)), rules), 1, 4)
    events = [event(facts, rules, number) for number, facts in enumerate(requests)]
    events_s = best(lambda: simulate_lines(events, Simulator(rules)), 1, 4)
    return Row(name, new_s * 1e6, again_s * 1e6, build_s * 1e3, LINES / simulate_s, LINES / events_s)


def request(number: int) -> Facts:
    """One of many like requests: 200 principals, every prompt of another length, each at another time."""
    principal = number % 200
    return Facts(
        principal=PrincipalFacts(
            id=f"prin_{principal}",
            plan="free",
            tags=("web",),
            age_days=principal + 100,
            score=number * 37 % 1000 / 1000,
        ),
        request=RequestFacts(
            model="demo", prompt_tokens=300 + number, max_tokens=number % 700, messages=1, text_length=len(WORDS)
        ),
        client=ClientFacts(country=("jp", "fr", "us")[number % 3], user_agent=f"client/{number % 40}"),
        now=now_facts(1_790_000_000_000 + number * 37_000),
        texts=(WORDS,),
    )


def event(facts: Facts, rules: Ruleset, number: int) -> bytes:
    """The event of a request, as `catflap events export` prints it."""
    return encode_event(
        RequestEvent(
            request=f"req_{number}", organisation="org_1", project="proj_1", principal=facts.principal.id, key="key_1",
            plan="free", endpoint="chat", model="demo", at_ms=facts.now.unix * 1000, outcome="completed", status=200,
            finish_reason="stop", prompt_tokens=facts.request.prompt_tokens, completion_tokens=60, cost=900,
            reserved_tokens=4000, ttft_ms=80, duration_ms=900, upstream="one", region="eu",
            record=record_of(facts, Roll(), decide(facts, rules, Roll())),
        )
    )  # fmt: skip


def file_of(condition: str, number: int) -> bytes:
    return f"""apiVersion: catflap/v1
kind: Policy
metadata: {{id: r{number}, description: To be measured.}}
spec:
  mode: enforce
  covert: true
  match: |
    {condition.replace("{n}", str(number))}
  actions: [{{flag: seen}}]
examples: [{{given: {{}}, expect: {{matched: true}}}}, {{given: {{}}, expect: {{matched: false}}}}]
""".encode()


def loaded(files: list[bytes]) -> list[Policy]:
    return [parse_policy(data, f"r{number}.yaml") for number, data in enumerate(files)]


def best(work: Callable[[], object], times: int, rounds: int) -> float:
    """Seconds of processor time for one call, in the best round."""
    found = float("inf")
    for _ in range(rounds):
        began = time.thread_time()
        for _ in range(times):
            work()
        found = min(found, (time.thread_time() - began) / times)
    return found


if __name__ == "__main__":
    main()
