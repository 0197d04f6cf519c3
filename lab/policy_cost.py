"""What policies cost: processor time of one decision, and requests a second in simulation. `python -m lab.policy_cost`.

Times are of the thread's own processor (other work on the machine does not count, but the caches that it empties do),
the best of several rounds.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from gateway.core.facts import ClientFacts, Facts, PrincipalFacts, RequestFacts, Roll
from gateway.policy.decide import decide
from gateway.policy.loader import Policy, parse_policy
from gateway.policy.record import Opening, Stored, encode, record_of
from gateway.policy.ruleset import Ruleset, build_ruleset
from gateway.policy.simulate import simulate

RULES = 100
ROUNDS = 12
LINES = 3000
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


def main() -> None:
    print(f"{RULES} rules, 3,000 requests of 200 principals, and one again and again; none matches")
    print(f"{'rules':40} {'requests':>10} {'the same':>10} {'compile all':>14} {'simulated':>16}")
    for name, conditions in CONDITIONS.items():
        row = measured(name, conditions)
        print(
            f"{row.name:40} {row.new_us:7.1f} us {row.again_us:7.1f} us {row.build_ms:11.1f} ms"
            f" {row.simulated_per_s:13,.0f} /s"
        )


def measured(name: str, conditions: tuple[str, ...]) -> Row:
    """The costs of `RULES` rules with these conditions in turn."""
    files = [file_of(conditions[number % len(conditions)], number) for number in range(RULES)]
    built: list[Ruleset] = []
    build_s = best(lambda: built.append(build_ruleset(loaded(files))), 1, 3)
    rules = built[-1]
    requests = [request(number) for number in range(LINES)]
    new_s = best(lambda: [decide(facts, rules, Roll()) for facts in requests], 1, 4) / LINES
    again_s = best(lambda: decide(requests[0], rules, Roll()), 100, ROUNDS)
    lines = [encode(record_of(facts, Roll(), decide(facts, rules, Roll()), "req_1")) for facts in requests]
    decode = msgspec.json.Decoder(Stored).decode
    simulate_s = best(lambda: simulate(map(Opening().open, map(decode, lines)), rules), 1, 4)
    return Row(name, new_s * 1e6, again_s * 1e6, build_s * 1e3, LINES / simulate_s)


def request(number: int) -> Facts:
    """One of many like requests: 200 principals, every prompt of another length."""
    return Facts(
        principal=PrincipalFacts(id=f"prin_{number % 200}", plan="free", tags=("web",), age_days=number % 200 + 100),
        request=RequestFacts(model="demo", prompt_tokens=300 + number, messages=1, text_length=len(WORDS)),
        client=ClientFacts(country=("jp", "fr", "us")[number % 3]),
        texts=(WORDS,),
    )


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
