"""A ruleset: policies compiled once, in their order, never changed."""

from collections.abc import Iterable
from hashlib import blake2b
from typing import NamedTuple

import msgspec

from gateway.core.decision import Decision
from gateway.policy.loader import Policy
from gateway.policy.matcher import Matcher
from gateway.policy.model import PolicyFile
from gateway.policy.problem import PolicyError
from gateway.policy.screen import screen_of
from gateway.policy.text import Screen, Test, compile_predicate

MAX_POLICIES = 1000
AS_USUAL = "no policy applies"

_encode = msgspec.json.Encoder(order="deterministic").encode


class Ruleset(NamedTuple):
    """`version`: hash of the content, so that equal rules have equal names wherever they came from. `policies`: all;
    `rules`: those that are not off, the highest priority first; bits of `matcher` go by their index. `acting`: bits of
    those that do more than note something; `containing`: of those that contain; `asking`: of those that ask about
    words, and `screened`: whether the screen stands for all that these ask."""

    version: str
    policies: tuple[Policy, ...]
    rules: tuple[Policy, ...]
    matcher: Matcher
    tests: dict[str, Test]
    screen: Screen | None
    acting: int
    containing: int
    asking: int
    screened: bool
    as_usual: Decision
    composed: dict[tuple[int, int, bool, bool], Decision]
    """What was made of rules that hold, where neither time nor chance has a say (decide.py)."""

    def __repr__(self) -> str:
        return f"Ruleset({self.version}: {', '.join(policy.id for policy in self.policies)})"


def build_ruleset(policies: Iterable[Policy], where: str = "the policies") -> Ruleset:
    """Raises PolicyError: none at all, too many, or two of one id. `where`: what to call the place they are from."""
    ordered = sorted(policies, key=lambda policy: (-policy.file.spec.priority, policy.id))
    if not ordered:
        raise PolicyError(where, 0, "there is no policy here; a ruleset without any is written by switching one off.")
    if len(ordered) > MAX_POLICIES:
        raise PolicyError(where, 0, f"there are {len(ordered):,} policies; at most {MAX_POLICIES:,} make a ruleset.")
    seen: dict[str, Policy] = {}
    for policy in ordered:
        other = seen.setdefault(policy.id, policy)
        if other is not policy:
            raise policy.wrong(f"the id {policy.id!r} is taken by {other.document.file}.", "metadata", "id")
    return _compiled(tuple(ordered))


def no_rules() -> Ruleset:
    """The ruleset before there is any: everything is served as usual."""
    return _compiled(())


def version_of(files: Iterable[PolicyFile]) -> str:
    """The version of policies with this content, whatever the order, the comments and the spelling of their files."""
    content = sorted(_encode(msgspec.to_builtins(file, str_keys=True)) for file in files)
    return blake2b(b"\x00".join(content), digest_size=12).hexdigest()


def _compiled(policies: tuple[Policy, ...]) -> Ruleset:
    rules = tuple(policy for policy in policies if policy.file.spec.mode != "off")
    version = version_of(policy.file for policy in policies)
    predicates = {predicate.id: predicate for policy in rules for predicate in policy.condition.predicates}
    tests = {name: compile_predicate(predicate) for name, predicate in predicates.items()}
    matcher = Matcher([policy.condition for policy in rules])
    screen = screen_of(predicates.values())
    words = {name for name, predicate in predicates.items() if predicate.of_words}
    return Ruleset(
        version=version,
        policies=policies,
        rules=rules,
        matcher=matcher,
        tests=tests,
        screen=screen,
        acting=_bits(policy.acts for policy in rules),
        containing=_bits(policy.acts and policy.contains for policy in rules),
        asking=_bits(any(asked.of_words for asked in policy.condition.predicates) for policy in rules),
        screened=screen is not None and words <= screen.names,
        as_usual=Decision(ruleset=version, reason=AS_USUAL),
        composed={},
    )


def _bits(those: Iterable[bool]) -> int:
    return sum(1 << index for index, one in enumerate(those) if one)
