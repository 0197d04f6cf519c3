"""A contained request's record and evidence."""

import json
import sys
from functools import partial
from typing import Any, cast

import pytest

from gateway.core.delta import Delta, Usage
from gateway.dataplane import judge
from gateway.dataplane.call import Call
from gateway.dataplane.disguise import Disguise
from gateway.dataplane.shape import shape
from gateway.policy.ruleset import Ruleset
from gateway.wire.openai import chat_prompt, decode_chat
from tests.unit.dataplane.calls import call_of, house
from tests.unit.policy.writing import CAT, policy, ruleset


@pytest.fixture(scope="module")
def cat() -> Ruleset:
    return ruleset(policy('principal.state == "contained"', CAT, "{canary: {}}", name="cat"))


async def contained(rules: Ruleset, body: dict[str, Any]) -> Disguise:
    data = json.dumps({"model": "m", **body}, ensure_ascii=False).encode()
    services = house(rules)
    call: Call = call_of(chat_prompt(decode_chat(data), frozenset({"logit_bias"})), "contained", len(data))
    judge.foresee(services, call)
    await shape(services, call)
    assert call.disguise is not None
    return call.disguise


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


def made_of(disguise: Disguise) -> Any:
    """The prompt of which the touched one is made."""
    return cast(partial[Any], disguise._touched).args[0]


POINTER = 8
HI = {"role": "user", "content": "hi"}
BODIES: dict[str, dict[str, Any]] = {
    "short": {"messages": [HI]},
    "long": {"messages": [{"role": "user", "content": "x" * 2000}]},
    "one character of four bytes": {"messages": [{"role": "user", "content": "x" * 2000 + "\N{CAT FACE}"}]},
    "cut": {"messages": [{"role": "user", "content": "x" * 3950}]},
    "cut, of four bytes": {"messages": [{"role": "user", "content": "x" * 3940 + "\N{CAT FACE}"}]},
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
    disguise = await contained(cat, BODIES[body])
    for piece in ANSWERS[answer]:
        disguise.hear(Delta(piece))
    size, make = disguise.evidence()
    real = held([disguise.call.prompt, made_of(disguise)], set())
    real += sum(held(piece, set()) + POINTER for piece in ANSWERS[answer])
    assert real <= size <= 9 * real + 2000
    evidence = make()
    assert json.loads(evidence.asked)["messages"] == BODIES[body]["messages"]
    assert b"You are a cat." in evidence.sent
    assert evidence.answers == ("".join(ANSWERS[answer]),)


async def test_what_is_rehearsed_leaves_no_trace(cat: Ruleset) -> None:
    disguise = await contained(cat, BODIES["short"])
    disguise._rehearse()
    assert disguise.real == Usage()
    assert disguise.call.usage == Usage()
    delta = Delta("purr", prompt_tokens=500, completion_tokens=1)
    disguise.hear(delta)
    await disguise.tell(delta)
    assert disguise.real == Usage(prompt_tokens=500, completion_tokens=1)
    assert 0 < delta.prompt_tokens < 500
