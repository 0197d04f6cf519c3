"""Record: what a decision was made of, less the client's words. From it the same decision follows again, exactly."""

import msgspec

from gateway.core.facts import Facts, Roll


class Record(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Version 1. `facts` without texts; `answers`: what was found in them, by predicate id; `ruleset`: its version."""

    v: int = 1
    request: str = ""
    facts: Facts
    roll: Roll
    ruleset: str
    answers: dict[str, bool] = {}
