"""The quota scripts under a clock that a test holds.

The scripts' own text runs, with one line exchanged: the one that asks Redis for the TIME reads the key WALL instead.
"""

from collections.abc import Sequence
from typing import Any, cast

from redis import Redis

from gateway.quota import keys
from gateway.quota.connection import Argument, Script
from gateway.quota.keeper import KEYS
from gateway.quota.scripts import ADMIT, EXPIRED, RENEW, RESTORE, SETTLE

WALL = "test:wall"
_TIME = "local time = redis.call('TIME')\n"
_HELD = f"local wall_ms = tonumber(redis.call('GET', '{WALL}'))\n" + (
    "local time = {math.floor(wall_ms / 1000), (wall_ms % 1000) * 1000}\n"
)
PARTITION = 0
HEAD = [keys.clock_key(PARTITION), keys.held_key(PARTITION), keys.lease_key(PARTITION)]
EVENTS = keys.events_key(PARTITION)
EPOCH = keys.epoch_key(PARTITION, "org_1")


def _under_test_clock(script: Script) -> Script:
    if script is RESTORE:
        return script  # knows no time
    assert script.text.count(_TIME) == 1, "clock.lua no longer reads the time in the line that is exchanged here"
    return Script(script.text.replace(_TIME, _HELD))


class Scripts:
    """Each script as a function, on one Redis."""

    def __init__(self, redis: "Redis") -> None:
        self.redis: Any = redis
        self.born = 0
        self._scripts = {
            name: _under_test_clock(script)
            for name, script in (
                ("admit", ADMIT),
                ("settle", SETTLE),
                ("renew", RENEW),
                ("expired", EXPIRED),
                ("restore", RESTORE),
            )
        }
        for script in self._scripts.values():
            redis.script_load(script.text)

    def set_wall(self, milliseconds: int) -> None:
        self.redis.set(WALL, milliseconds, px=10**9)

    def admit(self, request: str, lease_ms: int, limits: Sequence[tuple[str, str, int, int, int, int]]) -> list[int]:
        """`limits`: (kind, name, cap, window ms, bucket ms, cost). The reply as admit.lua says, less `born`."""
        args: list[Argument] = [request, lease_ms, f"note of {request}"]
        for kind, _, *numbers in limits:
            args += (kind, *numbers)
        names = [limit_key(kind, name) for kind, name, *_ in limits]
        reply = cast(list[int], self._run("admit", [*HEAD, EPOCH, *names], args))
        self.born = reply.pop(3)
        return reply

    def settle(self, request: str, used: Sequence[tuple[str, str, int]], *, only_expired: bool = False) -> int:
        """`used`: (kind, name of the limit, units). The code of settle.lua's reply."""
        names = [limit_key(kind, name) for kind, name, _ in used]
        args: list[Argument] = [request, "{}", 1000, "expired" if only_expired else "", *(units for *_, units in used)]
        code, entry, _ = cast("tuple[int, bytes, int]", self._run("settle", [*HEAD, EVENTS, *names], args))
        assert (entry == b"") == (code == 0)
        return code

    def renew(self, lease_ms: int, reports: Sequence[tuple[str, int, int, Sequence[str]]]) -> int:
        """`reports`: (request, prompt tokens, completion tokens, names of its slots)."""
        slots = [limit_key("s", name) for *_, names in reports for name in names]
        args: list[Argument] = []
        for request, prompt, completion, names in reports:
            args += (request, prompt, completion, len(names))
        return cast(int, self._run("renew", [*HEAD, *slots], [lease_ms, *args]))

    def restore(self, month: int, spent: dict[str, int], *, make: bool) -> int:
        """`spent`: name of the budget -> what the ledger knows."""
        names = [limit_key("b", name) for name in spent]
        return cast(int, self._run("restore", [HEAD[0], *names], [month, "1" if make else "", *spent.values()]))

    def expired(self, most: int = 1000) -> dict[str, str]:
        """Request -> its reservation."""
        found = cast(list[bytes], self._run("expired", HEAD, [most]))
        texts = [text.decode() for text in found]
        return dict(zip(texts[::2], texts[1::2], strict=True))

    def _run(self, name: str, names: list[str], args: list[Argument]) -> object:
        return self.redis.evalsha(self._scripts[name].digest, len(names), *names, *args)


def limit_key(kind: str, name: str) -> str:
    """The key of a window (w), of slots (s) or of a budget (b)."""
    return KEYS[kind](PARTITION, "key_1", name)


def window_key(name: str) -> str:
    return limit_key("w", name)
