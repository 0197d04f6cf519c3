"""Record: what a decision was made of, less the client's words. From it the same decision follows again, exactly."""

import msgspec

from gateway.core.facts import Facts, Roll

MAX_ANSWERS = 256
"""Of one request: some 6 KB of a record. The ledger takes no long ones."""


class Record(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """Version 1. `facts` without texts; `answers`: what was found in them, by predicate id; `ruleset`: its version.

    Where more than MAX_ANSWERS were given, those asked last are left out; whether a
    rule held that hangs on them is not known from here."""

    v: int = 1
    request: str = ""
    facts: Facts
    roll: Roll
    ruleset: str
    answers: dict[str, bool] = {}
