"""One question to one Redis server, on its own connection: for what is rarely asked (who is master, which slots)."""

import asyncio
import ssl

import hiredis

from gateway.quota.address import Address
from gateway.quota.connection import Argument, RedisRefused, RedisUnavailable, pack_command

MAX_REPLY = 8 << 20


async def ask(address: Address, *command: Argument, timeout_s: float) -> object:
    """The reply. Raises RedisRefused, RedisUnavailable, OSError or TimeoutError; waits no longer than `timeout_s`."""
    commands = [*address.greeting()[:-1], command]  # without its PING
    async with asyncio.timeout(timeout_s):
        tls = ssl.create_default_context() if address.tls else None
        reader, writer = await asyncio.open_connection(address.host, address.port, ssl=tls)
        try:
            writer.write(b"".join(pack_command(words) for words in commands))
            replies = await _replies(reader, len(commands))
        finally:
            writer.transport.abort()
    return replies[-1]


async def _replies(reader: asyncio.StreamReader, number: int) -> list[object]:
    parser, replies, size = hiredis.Reader(), list[object](), 0
    while len(replies) < number:
        data = await reader.read(65_536)
        size += len(data)
        if not data or size > MAX_REPLY:
            raise RedisUnavailable("no whole reply")
        parser.feed(data)
        try:
            while (reply := parser.gets()) is not False:
                if isinstance(reply, hiredis.ReplyError):
                    raise RedisRefused(str(reply))
                replies.append(reply)
        except hiredis.ProtocolError as problem:
            raise RedisUnavailable("no Redis") from problem
    return replies
