"""The quota scripts under a clock that a test holds.

The scripts' own text runs, with one line exchanged: the one that asks Redis for the TIME reads the key WALL instead.
"""

from typing import Any, cast

from redis import Redis

from gateway.quota import keys
from gateway.quota.connection import Argument, Script
from gateway.quota.scripts import ADMIT, EXPIRED, RENEW, SETTLE

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
    assert script.text.count(_TIME) == 1, "clock.lua no longer reads the time in the line that is exchanged here"
    return Script(script.text.replace(_TIME, _HELD))


class Scripts:
    """Each script as a function, on one Redis."""

    def __init__(self, redis: "Redis") -> None:
        self.redis: Any = redis
        self._scripts = {
            name: _under_test_clock(script)
            for name, script in (("admit", ADMIT), ("settle", SETTLE), ("renew", RENEW), ("expired", EXPIRED))
        }
        for script in self._scripts.values():
            redis.script_load(script.text)

    def set_wall(self, milliseconds: int) -> None:
        self.redis.set(WALL, milliseconds, px=10**9)

    def admit(self, request: str, lease_ms: int, limits: list[tuple[str, int, int, int, int]]) -> list[int]:
        """`limits`: (name, cap, window ms, bucket ms, cost). The reply as admit.lua says."""
        windows = [window_key(name) for name, *_ in limits]
        args: list[Argument] = [request, lease_ms, f"note of {request}"]
        for _, *numbers in limits:
            args += numbers
        return cast(list[int], self._run("admit", [*HEAD, EPOCH, *windows], args))

    def settle(self, request: str, used: list[tuple[str, int]], *, only_expired: bool = False) -> int:
        """`used`: (name of the limit, units)."""
        windows = [window_key(name) for name, _ in used]
        args: list[Argument] = [request, "{}", 1000, "1" if only_expired else "", *(units for _, units in used)]
        return cast(int, self._run("settle", [*HEAD, EVENTS, *windows], args))

    def renew(self, lease_ms: int, reports: list[tuple[str, int, int]]) -> int:
        """`reports`: (request, prompt tokens, completion tokens)."""
        return cast(int, self._run("renew", HEAD, [lease_ms, *(part for report in reports for part in report)]))

    def expired(self, most: int = 1000) -> dict[str, str]:
        """Request -> its reservation."""
        found = cast(list[bytes], self._run("expired", HEAD, [most]))
        texts = [text.decode() for text in found]
        return dict(zip(texts[::2], texts[1::2], strict=True))

    def _run(self, name: str, names: list[str], args: list[Argument]) -> object:
        return self.redis.evalsha(self._scripts[name].digest, len(names), *names, *args)


def window_key(name: str) -> str:
    return keys.limit_key(PARTITION, "key_1", name)
