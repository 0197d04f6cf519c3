"""A contained request's record and evidence."""

import json
import sys
from typing import Any

import pytest

from gateway.core.delta import Delta
from gateway.dataplane import judge
from gateway.dataplane.call import Call
from gateway.dataplane.disguise import Disguise
from gateway.policy.ruleset import Ruleset
from gateway.wire.openai import chat_prompt, decode_chat
from tests.unit.dataplane.calls import call_of, house
from tests.unit.policy.writing import CAT, policy, ruleset


@pytest.fixture(scope="module")
def cat() -> Ruleset:
    return ruleset(policy('principal.state == "contained"', CAT, "{canary: {}}", name="cat"))


def contained(rules: Ruleset, body: dict[str, Any]) -> Disguise:
    data = json.dumps({"model": "m", **body}, ensure_ascii=False).encode()
    call: Call = call_of(chat_prompt(decode_chat(data), frozenset({"logit_bias"})), "contained", len(data))
    judge.foresee(house(rules), call)
    assert call.foreseen is not None
    return call.foreseen


def held(thing: Any, seen: set[int]) -> int:
    """Bytes of memory of a thing and all that it is made of."""
    if thing is None or id(thing) in seen:
        return 0
    seen.add(id(thing))
    parts: Any = ()
    if hasattr(thing, "__struct_fields__"):
        parts = [getattr(thing, name) for name in thing.__struct_fields__]
    elif isinstance(thing, dict):
        parts = [*thing, *thing.values()]
    elif isinstance(thing, tuple | list):
        parts = thing
    return sys.getsizeof(thing) + sum(held(part, seen) for part in parts)


HI = {"role": "user", "content": "hi"}
BODIES: dict[str, dict[str, Any]] = {
    "short": {"messages": [HI]},
    "long": {"messages": [{"role": "user", "content": "x" * 2000}]},
    "one character of four bytes": {"messages": [{"role": "user", "content": "x" * 2000 + "\N{CAT FACE}"}]},
    "many turns": {"messages": [HI] * 100},
    "a huge user": {"messages": [HI], "user": "u" * 100_000 + "\N{CAT FACE}"},
    "many biases": {"messages": [HI], "logit_bias": {str(token): 1.5 for token in range(300)}},
}
ANSWERS = {
    "none": [],
    "a long one": ["purr " * 1000],
    "in letters": ["\N{CAT FACE}"] * 2000,
    "in words": ["purr "] * 900,
}


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("body", BODIES)
async def test_evidence_that_waits_counts_for_no_less_than_it_holds(cat: Ruleset, body: str, answer: str) -> None:
    disguise = contained(cat, BODIES[body])
    for piece in ANSWERS[answer]:
        disguise.hear(Delta("".join(piece)))
    size, make = disguise.evidence()
    pieces = 0 if not ANSWERS[answer] else sum(map(sys.getsizeof, ANSWERS[answer])) + 8 * len(ANSWERS[answer])
    real = held(disguise.call.prompt, set()) + pieces
    assert real <= size <= 6 * real + 2000
    evidence = make()
    assert json.loads(evidence.asked)["messages"][-1]["content"] == BODIES[body]["messages"][-1]["content"]
    assert b"You are a cat." in evidence.sent
    assert evidence.answers == ("".join(ANSWERS[answer]),)
