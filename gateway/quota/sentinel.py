"""Sentinel: who is master is asked before each connection, so a failover ends in a connection to the new one."""

from collections import deque

import structlog

from gateway.quota.address import Address, SentinelAddress
from gateway.quota.ask import ask
from gateway.quota.connection import RedisRefused, RedisUnavailable

ASK_S = 0.5
"""The longest wait for one Sentinel; nobody waits for this, calls fail at once meanwhile."""
log = structlog.get_logger()


class Sentinels:
    """The Sentinels that watch one master."""

    def __init__(self, address: SentinelAddress) -> None:
        self._address = address
        self._sentinels = deque(address.sentinels)

    async def master(self) -> Address:
        """The master, which says itself that it is one. Each time another Sentinel is asked first: one that was cut off
        may still name the old one. Raises RedisUnavailable, RedisRefused, OSError or TimeoutError."""
        self._sentinels.rotate(-1)
        for sentinel in tuple(self._sentinels):
            try:
                found = await ask(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._address.name, timeout_s=ASK_S)
            except (OSError, TimeoutError, RedisRefused, RedisUnavailable) as problem:
                log.warning("sentinel_unreachable", port=sentinel.port, error=type(problem).__name__)
                continue
            match found:
                case [bytes(host), bytes(port)]:
                    return await self._own_word(self._address.master.at(host.decode(), int(port)))
                case _:
                    log.warning("sentinel_knows_no_master", port=sentinel.port, name=self._address.name)
        raise RedisUnavailable("no Sentinel names a master")

    async def _own_word(self, master: Address) -> Address:
        role = await ask(master, "ROLE", timeout_s=ASK_S)
        if isinstance(role, list) and role and role[0] == b"master":
            return master
        raise RedisUnavailable("named as master, but is none")
