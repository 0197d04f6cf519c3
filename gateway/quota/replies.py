"""Redis's error replies, by what they mean for a command."""

import re

NOT_NOW = frozenset(
    {"LOADING", "MASTERDOWN", "READONLY", "MISCONF", "OOM", "NOREPLICAS", "BUSY", "TRYAGAIN", "CLUSTERDOWN"}
    | {"NOAUTH", "NOPERM"}
)
"""The server cannot serve at the moment: it loads, is a replica, may not write, runs somebody's long script, has a slot
on its way, or its users are being changed."""
_NESTED = re.compile(r": -([A-Z]+) ")  # Redis 6.2 wraps what a command in a script answered

# What Lua itself raised at a line of a script, such as an assertion; what a command in it answered looks otherwise.
_RAISED = re.compile(r"(?<!@)\buser_script:\d+: ")


def error_code(text: str) -> str:
    """The first word of an error reply; of one that a script passes on, the word of the command that failed in it."""
    nested = _NESTED.search(text) if text.startswith("ERR ") else None
    return nested[1] if nested else text.partition(" ")[0]


def is_permanent(text: str) -> bool:
    """Whether the same command will be answered so for ever: the script or the key is wrong, and not the server."""
    return error_code(text) == "WRONGTYPE" or (text.startswith("ERR ") and _RAISED.search(text) is not None)
