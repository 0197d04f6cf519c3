"""Bytes of a policy file -> Policy, checked as far as one file can be by itself."""

import re
from typing import NamedTuple

import msgspec

from gateway.core.decision import Actions, Edit, Refusal, Shadow, Slow
from gateway.policy import model
from gateway.policy.condition import Condition, ConditionError, read_condition
from gateway.policy.document import Document, read_document
from gateway.policy.model import CONTAINING, OVERT, Kind, PolicyFile
from gateway.policy.problem import PolicyError
from gateway.policy.schedule import Times, compile_schedule
from gateway.policy.text import BadPattern, compile_pattern

_PLACE = re.compile(r" - at `(?:key in )?\$\.?([^`]*)`")
_STEP = re.compile(r"\[(\d+|\.\.\.)\]|([^.\[\]]+)")
_UNKNOWN = re.compile(r"unknown field `([^`]*)`")


class Throttled(NamedTuple):
    """A refusal for this share of requests."""

    percent: float
    refusal: Refusal


class Policy(NamedTuple):
    """A policy as it was read. `actions` are those of its file in one; a share of requests is refused with
    `throttle`."""

    document: Document
    file: PolicyFile
    condition: Condition
    times: Times
    actions: Actions
    throttle: Throttled | None
    contains: bool

    @property
    def id(self) -> str:
        return self.file.metadata.id

    @property
    def acts(self) -> bool:
        """Whether it may change what is done with a request, and does not only note something."""
        acts = self.throttle is not None or self.actions != Actions(flags=self.actions.flags)
        return acts and self.file.spec.mode == "enforce"

    def __repr__(self) -> str:
        return f"Policy({self.id}: {self.file.spec.match.strip()})"

    def wrong(self, sentence: str, *path: str | int) -> PolicyError:
        """An error that is told with the place in the file."""
        return PolicyError(self.document.file, self.document.line(path), sentence)


def parse_policy(data: bytes, name: str) -> Policy:
    """The policy in the file `name` with the bytes `data`. Raises PolicyError."""
    document = read_document(data, name)
    try:
        file = msgspec.convert(document.value, PolicyFile)
    except msgspec.ValidationError as problem:
        raise _misfit(document, str(problem)) from problem
    condition = _condition(document, file.spec.match)
    kinds = [_kind(document, file, index) for index in range(len(file.spec.actions))]
    _fitting(document, file, kinds)
    for wanted in (True, False):
        if not any(example.expect.matched is wanted for example in file.examples):
            raise PolicyError(
                name,
                document.line(("examples",)),
                f"no example {'matches' if wanted else 'fails to match'}; at least one must.",
            )
    times = compile_schedule(document, file.spec.schedule)
    actions, throttle = _actions(file.spec.actions)
    return Policy(document, file, condition, times, actions, throttle, bool(CONTAINING & set(kinds)))


def _misfit(document: Document, problem: str) -> PolicyError:
    """msgspec's sentence, with the line that it means."""
    place = _PLACE.search(problem)
    path: list[str | int] = []
    for number, name in _STEP.findall(place[1]) if place else ():
        path.append(int(number) if number.isdigit() else name or number)
    sentence = problem[: place.start()] if place else problem
    if unknown := _UNKNOWN.search(problem):
        path.append(unknown[1])
    where = f"{place[1]}: " if place and place[1] else ""
    return PolicyError(document.file, document.line(tuple(path)), f"{where}{sentence.replace('`', chr(39))}.")


def _condition(document: Document, source: str) -> Condition:
    try:
        return read_condition(source)
    except ConditionError as problem:
        line = document.line(("spec", "match")) + problem.line
        raise PolicyError(document.file, line, problem.sentence) from problem


def _kind(document: Document, file: PolicyFile, index: int) -> Kind:
    action = file.spec.actions[index]
    path: tuple[str | int, ...] = ("spec", "actions", index)
    named: list[Kind] = [kind for kind in _KINDS if getattr(action, kind) is not None]
    if len(named) != 1:
        said = " and ".join(named) or "nothing"
        raise PolicyError(document.file, document.line(path), f"an action is exactly one thing; this one says {said}.")
    for kind, part, choices in (
        ("rewrite", action.rewrite, ("prepend_system", "append_system", "prefix_last_user", "replace")),
        ("shadow", action.shadow, ("model", "pool")),
    ):
        if part is not None and sum(getattr(part, name) is not None for name in choices) != 1:
            sentence = f"{kind} takes exactly one of {', '.join(choices)}."
            raise PolicyError(document.file, document.line((*path, kind)), sentence)
    return named[0]


_KINDS: tuple[Kind, ...] = ("rewrite", "canary", "shadow", "slow", "flag", "cap", "throttle", "deny")


def _fitting(document: Document, file: PolicyFile, kinds: list[Kind]) -> None:
    """What the shape alone does not say of actions."""
    for index, (kind, action) in enumerate(zip(kinds, file.spec.actions, strict=True)):
        line = document.line(("spec", "actions", index, kind))
        if file.spec.covert and kind in OVERT:
            raise PolicyError(document.file, line, f"the policy is covert, and {kind} can be seen; drop one of them.")
        if not file.spec.covert and kind in CONTAINING:
            raise PolicyError(
                document.file, line, f"{kind} is never told to the client; the policy must say covert: true."
            )
        if kind != "flag" and kind != "rewrite" and kinds.index(kind) != index:
            raise PolicyError(document.file, line, f"a second {kind} in one policy has no meaning.")
        if action.slow is not None and action.slow.low > action.slow.high:
            raise PolicyError(document.file, line, "slow.low is above slow.high.")
        if action.rewrite is not None and action.rewrite.replace is not None:
            try:
                empty = compile_pattern(action.rewrite.replace.pattern).search("")
            except BadPattern as problem:
                raise PolicyError(document.file, line, f"{problem}.") from problem
            if empty:
                raise PolicyError(document.file, line, "the pattern matches the empty text, which is everywhere.")
    if {"deny", "throttle"} <= set(kinds):
        raise PolicyError(document.file, document.line(("spec", "actions")), "deny beside throttle: keep one of them.")


def _actions(parts: tuple[model.Action, ...]) -> tuple[Actions, Throttled | None]:
    """All actions of a file in one value."""
    found: dict[str, object] = {}
    edits: list[Edit] = []
    flags: list[str] = []
    throttle = None
    for part in parts:
        if part.rewrite is not None:
            edits.append(_edit(part.rewrite))
        elif part.canary is not None:
            found["canary"] = True
        elif part.shadow is not None:
            found["shadow"] = Shadow(part.shadow.model, part.shadow.pool)
        elif part.slow is not None:
            found["slow"] = Slow(part.slow.low, part.slow.high)
        elif part.flag is not None:
            flags.append(part.flag)
        elif part.cap is not None:
            found["max_tokens"] = part.cap.max_tokens
        elif part.deny is not None:
            found["refusal"] = Refusal(part.deny.status, part.deny.code, part.deny.message)
        elif part.throttle is not None:
            throttle = Throttled(part.throttle.percent, _slow_down(part.throttle.retry_after_s))
    actions = msgspec.convert(found | {"edits": edits, "flags": flags}, Actions, from_attributes=True)
    return actions, throttle


def _edit(rewrite: model.Rewrite) -> Edit:
    if rewrite.replace is not None:
        return Edit("replace", rewrite.replace.by, rewrite.replace.pattern)
    if rewrite.prepend_system is not None:
        return Edit("prepend_system", rewrite.prepend_system)
    if rewrite.append_system is not None:
        return Edit("append_system", rewrite.append_system)
    assert rewrite.prefix_last_user is not None
    return Edit("prefix_last_user", rewrite.prefix_last_user)


def _slow_down(seconds: int) -> Refusal:
    return Refusal(429, "rate_limit_exceeded", f"Rate limit reached. Try again in {seconds} s.", seconds * 1000)
