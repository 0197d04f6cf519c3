"""Calls and the parts of a house, as far as deciding on them needs them."""

from random import Random
from types import SimpleNamespace
from typing import Any, cast

from gateway.core.caller import Caller, Regard
from gateway.core.delta import Usage
from gateway.core.prompt import Message, Prompt
from gateway.dataplane.call import Call
from gateway.dataplane.exchange import Exchange
from gateway.dataplane.measure import Measured
from gateway.dataplane.services import Secrets, Services
from gateway.dataplane.usual import Usual
from gateway.policy.ruleset import Ruleset
from tests.unit.dataplane.test_fit import model

MODEL = model(4000)
TEA = "How is the tea made?"


def house(rules: Ruleset) -> Services:
    parts = SimpleNamespace(
        policies=SimpleNamespace(ruleset=rules, containment=True),
        trusted_proxies=(),
        secrets=Secrets(rollout=b"r" * 32, canary=b"c" * 32),
        dice=Random(1),
        usual=Usual(),
    )
    return cast(Services, parts)


def call_of(prompt: Prompt, state: Any = "normal", body_bytes: int = 0) -> Call:
    """A call that is measured, from a principal in this state."""
    exchange = SimpleNamespace(
        request_id="req_1", arrived_ms=1_790_000_000_000, peer="127.0.0.1", headers=[], body_bytes=body_bytes,
        header=lambda name: None,
    )  # fmt: skip
    made = Call(cast(Exchange, exchange), "chat")
    made.caller = Caller(
        organisation="org", project="proj", principal="prin", key="key", plan="free", regard=Regard(state)
    )
    made.model = MODEL
    made.prompt, made.texts = prompt, MODEL.render(prompt)
    counts = tuple(map(len, made.texts))
    made.measured = Measured(10, Usage(sum(counts), 10), exact=True, counts=counts)
    return made


def call(words: str = TEA, state: Any = "normal") -> Call:
    """One that asks this in a chat."""
    return call_of(Prompt(endpoint="chat", model="m", messages=(Message("user", words),)), state)
