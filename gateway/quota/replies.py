"""Redis's error replies, by what they mean for a command."""

import re

NOT_NOW = frozenset({"LOADING", "MASTERDOWN", "READONLY", "MISCONF", "OOM", "NOREPLICAS"})
"""The server cannot serve at the moment: it loads, is a replica, or may not write."""
_NESTED = re.compile(r": -([A-Z]+) ")  # Redis 6.2 wraps what a command in a script answered


def error_code(text: str) -> str:
    """The first word of an error reply; of one that a script passes on, the word of the command that failed in it."""
    nested = _NESTED.search(text) if text.startswith("ERR ") else None
    return nested[1] if nested else text.partition(" ")[0]
