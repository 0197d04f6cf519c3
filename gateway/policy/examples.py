"""Examples of a policy, run: each is judged by its policy alone, enforced, in full rollout."""

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from gateway.core.decision import Decision
from gateway.core.facts import Facts, Roll, now_facts, request_facts, texts_of
from gateway.core.prompt import Message, Prompt
from gateway.policy.decide import decide
from gateway.policy.loader import Policy
from gateway.policy.model import Example, Expect, Given, Rewritten, Rollout
from gateway.policy.rewrite import rewrite
from gateway.policy.ruleset import build_ruleset
from gateway.policy.schedule import Times, unix_of

CANARY = "Somewhere in your answer, mention a phrase of this principal's own."
"""Stands for the canary's sentence, whose key an example does not know."""


class Failure(NamedTuple):
    """An example that did not go as it says."""

    file: str
    line: int
    sentence: str


def run_examples(policy: Policy) -> tuple[Failure, ...]:
    """Those that fail; none is good. Raises PolicyError where an example's facts are none."""
    ruleset = build_ruleset([_alone(policy)])
    failures = []
    for index, example in enumerate(policy.file.examples):
        prompt, facts = given_facts(policy, index, example.given)
        decision = decide(facts, ruleset, Roll())
        line = policy.document.line(("examples", index))
        failures += [Failure(policy.document.file, line, told) for told in _unmet(example, prompt, decision)]
    return tuple(failures)


def given_facts(policy: Policy, index: int, given: Given) -> tuple[Prompt, Facts]:
    """The prompt and the facts that an example gives. Raises PolicyError."""
    request = given.request
    endpoint = request.endpoint or ("completions" if request.prompt else "chat")
    texts = (request.prompt,) if isinstance(request.prompt, str) else request.prompt
    prompt = Prompt(
        endpoint="chat" if endpoint == "chat" else "completions",
        model=request.model,
        messages=tuple(Message(message.role, message.content) for message in request.messages),
        texts=texts,
        max_tokens=request.max_tokens,
        n=request.n,
        stream=request.stream,
    )
    words = texts_of(prompt)
    asked = request_facts(prompt, request.prompt_tokens, words)
    try:
        now = now_facts(0 if given.now is None else unix_of(given.now) * 1000)
    except ValueError as problem:
        raise policy.wrong(f"there is no moment {given.now}.", "examples", index, "given", "now") from problem
    facts = Facts(
        principal=given.principal,
        request=msgspec.structs.replace(asked, endpoint=endpoint),
        client=given.client,
        signals=given.signals,
        surge=given.surge,
        now=now,
        never_contain=given.never_contain,
        containment=given.containment,
        texts=words,
    )
    return prompt, facts


def _alone(policy: Policy) -> Policy:
    """The policy as if it were enforced for everybody, at all times that its examples do not name."""
    spec = msgspec.structs.replace(policy.file.spec, mode="enforce", rollout=Rollout())
    named = any(example.given.now is not None for example in policy.file.examples)
    times = policy.times if named else Times(None, None, ())
    return policy._replace(file=msgspec.structs.replace(policy.file, spec=spec), times=times)


def _unmet(example: Example, prompt: Prompt, decision: Decision) -> Iterator[str]:
    expect, actions = example.expect, decision.actions
    if decision.failed:
        yield "the condition gives an error on these facts, neither true nor false."
    if bool(decision.matched) is not expect.matched:
        yield f"it {'matches' if decision.matched else 'does not match'}, and should{' not' * bool(decision.matched)}."
        return
    yield from _differences(expect, decision)
    if expect.rewritten:
        after = rewrite(prompt, actions.edits, CANARY if actions.canary else None)
        for at, wanted in expect.rewritten.items():
            yield from _misplaced(after, at, wanted)


def _differences(expect: Expect, decision: Decision) -> Iterator[str]:
    actions = decision.actions
    shadow = None if actions.shadow is None else actions.shadow.model or actions.shadow.pool
    for name, wanted, got in (
        ("denied", expect.denied, actions.refusal is not None),
        ("max_tokens", expect.max_tokens, actions.max_tokens),
        ("shadow", expect.shadow, shadow),
        ("flags", expect.flags, actions.flags),
    ):
        if wanted is not None and wanted != got:
            yield f"{name} is {got!r}, and should be {wanted!r}."


def _misplaced(after: Prompt, at: int, wanted: Rewritten) -> Iterator[str]:
    found = [("", text) for text in after.texts] or [(message.role, message.content) for message in after.messages]
    if not 0 <= at < len(found):
        yield f"there is no message {at} in the rewritten prompt, which has {len(found)}."
        return
    role, text = found[at]
    if wanted.role is not None and wanted.role != role:
        yield f"message {at} is of the role {role!r}, and should be {wanted.role!r}."
    if wanted.contains is not None and wanted.contains not in text:
        yield f"message {at} does not contain {wanted.contains!r}."
    if wanted.equals is not None and wanted.equals != text:
        yield f"message {at} is not {wanted.equals!r}."
