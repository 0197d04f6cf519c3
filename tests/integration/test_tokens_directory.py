"""JSON Web Tokens through the directory: principals made at first sight, the epoch rule, outages; and keys fetched over
HTTP from loopback."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis
from sqlalchemy import func, select

from gateway.core.caller import Override
from gateway.core.errors import Unauthenticated, Unavailable
from gateway.identity import jwks as jwks_module
from gateway.identity.directory import Directory
from gateway.identity.issuers import Issuer
from gateway.identity.jwks import MAX_BYTES, BadKeySet, FetchedKeys, FixedKeys, fetch_jwks, parse_jwks
from gateway.identity.principals import set_limit
from gateway.identity.tokens import Verifier
from gateway.storage.database import Database, connect
from gateway.storage.migrate import migrate
from gateway.storage.tables import organisation, principal
from tests.integration.test_directory import PARTITIONS, Clock, GatedDatabase, epoch_of, issued, redis
from tests.support.databases import PEPPER
from tests.support.issuers import SigningKey, issuer, jwks
from tests.support.postgres import PostgresServer

__all__ = ["redis"]

KEY = SigningKey("k1")


def directory_for(database: Database, clock: Clock | None = None, **options: Any) -> Directory:
    one = issuer()
    keys = FixedKeys(parse_jwks(jwks(KEY), frozenset(one.algorithms)))
    return directory_with(database, one, keys, clock, **options)


def directory_with(
    database: Database, one: Issuer, keys: FixedKeys | FetchedKeys, clock: Clock | None = None, **options: Any
) -> Directory:
    monotonic = {} if clock is None else {"monotonic": clock.monotonic}
    values: dict[str, Any] = {"cache_s": 60.0, "cache_size": 1000, "timeout_s": 5.0, **monotonic, **options}
    return Directory(database, PEPPER, verifier=Verifier([(one, keys)], size=1000), **values)


async def count(database: Database) -> tuple[int, int]:
    """Organisations and principals."""
    async with database.read() as connection:
        found = [
            (await connection.execute(select(func.count()).select_from(table))).scalar_one()
            for table in (organisation, principal)
        ]
    return found[0], found[1]


async def test_a_principal_is_made_at_first_sight_and_known_from_then_on(database: Database) -> None:
    gated = GatedDatabase(database)
    directory, token = directory_for(gated), KEY.sign()
    assert directory.known(token) is None
    known = await directory.resolve(token)
    assert directory.known(token) is known
    assert known.caller.organisation.startswith("org_")
    assert known.caller.principal.startswith("prin_")
    assert known.caller.key == f"jwt:corp:{known.caller.principal}"
    assert len(known.caller.key) <= 128
    assert known.caller.plan == "free"
    assert await count(database) == (1, 1)
    reads = gated.reads
    again = KEY.sign(jti="another token of the same bearer")
    assert directory.known(again) is None
    assert (await directory.resolve(again)).caller == known.caller
    assert gated.reads == reads  # a new token of a known principal asks no database
    assert directory.known(again) is known


async def test_many_first_tokens_at_once_make_one_principal(database: Database) -> None:
    directories = [directory_for(database) for _ in range(4)]
    found = await asyncio.gather(*(directory.resolve(KEY.sign()) for directory in directories for _ in range(5)))
    assert len({known.caller for known in found}) == 1
    assert await count(database) == (1, 1)


async def test_a_key_and_a_token_of_one_principal_share_its_limits(database: Database, redis: Redis) -> None:
    directory, token = directory_for(database), KEY.sign()
    known = await directory.resolve(token)
    key = await issued(database, organisation="acme", project="web", principal="ann")
    assert key.record.principal == known.caller.principal
    await set_limit(database, redis, PARTITIONS, known.caller.principal, Override("tokens", 7, "minute"))
    epoch = await epoch_of(redis, known.caller.organisation)
    for credential in (token, key.token):
        refreshed = await directory.refresh(credential, epoch)
        assert refreshed.caller.overrides == (Override("tokens", 7, "minute"),)
        assert refreshed.epoch == epoch


async def test_tokens_follow_the_epoch_rule(sqlite: Database) -> None:
    gated = GatedDatabase(sqlite)
    directory, token = directory_for(gated), KEY.sign()
    await directory.resolve(token)
    known = await directory.refresh(token, 7)
    reads = gated.reads
    assert directory.known(token) is known
    assert await directory.refresh(token, 7) is known
    assert gated.reads == reads
    assert (await directory.refresh(token, 8)).epoch == 8
    assert gated.reads == reads + 1


async def test_two_bearers_of_one_issuer_are_two_callers(sqlite: Database) -> None:
    directory = directory_for(sqlite)
    ann, bob = await directory.resolve(KEY.sign()), await directory.resolve(KEY.sign(sub="bob"))
    assert ann.caller.organisation == bob.caller.organisation
    assert ann.caller.principal != bob.caller.principal
    assert ann.caller.key != bob.caller.key


async def test_a_token_that_is_refused_reaches_no_database_and_makes_nobody(sqlite: Database) -> None:
    gated = GatedDatabase(sqlite)
    directory, strange = directory_for(gated), SigningKey("k1")
    strange.private = SigningKey("strange").private
    for token in (strange.sign(), KEY.sign(exp=1), "eyJ.eyJ.", "", "' or 1=1 --", "x" * 9000):
        for ask in (directory.resolve(token), directory.refresh(token, 7)):
            with pytest.raises(Unauthenticated):
                await ask
        assert directory.known(token) is None
    assert gated.reads == 0
    assert await count(sqlite) == (0, 0)


async def test_with_the_database_gone_known_bearers_work_and_others_get_503(postgres_server: PostgresServer) -> None:
    url = postgres_server.fresh()
    migrate(url)
    database, clock = connect(url, timeout_s=1), Clock()
    directory, token = directory_for(database, clock, timeout_s=1), KEY.sign()
    await directory.resolve(token)
    postgres_server.stop()
    try:
        assert directory.known(token) is not None
        assert (await directory.resolve(KEY.sign(jti="2"))).caller.key.startswith("jwt:corp:")
        with pytest.raises(Unavailable):
            await directory.resolve(KEY.sign(sub="bob"))
        with pytest.raises(Unauthenticated):
            await directory.resolve(KEY.sign(sub="bob", exp=1))
        clock.seconds += 61
        with pytest.raises(Unavailable):
            await directory.resolve(token)
    finally:
        postgres_server.start()
    await database.close()


# -- keys over HTTP


Behave = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def publishing(behave: Behave) -> AsyncIterator[tuple[str, list[str]]]:
    """An HTTP server on loopback; its URL and the paths that were asked for."""
    asked: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            asked.append(head.decode().split(" ")[1])
            await behave(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/jwks", asked
    finally:
        server.close()


def answering(body: bytes, status: str = "200 OK", *headers: str) -> Behave:
    async def behave(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", "connection: close", *headers]
        writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + body)
        await writer.drain()

    return behave


async def test_keys_are_fetched_once_over_http_and_tokens_are_checked_with_them(sqlite: Database) -> None:
    async with publishing(answering(jwks(KEY))) as (url, asked):
        one = issuer(jwks_url=url)
        keys = FetchedKeys(one, fetch_jwks)
        directory = directory_with(sqlite, one, keys)
        tokens = [KEY.sign(sub=f"ann {number}") for number in range(20)]
        await asyncio.gather(*(directory.resolve(token) for token in tokens))
        assert asked == ["/jwks"]
        evil = KEY.sign({"jku": url + "/evil", "x5u": url + "/evil", "kid": "k2"})
        with pytest.raises((Unauthenticated, Unavailable)):
            await directory.resolve(evil)
        assert set(asked) == {"/jwks"}
    await keys.close()


async def test_an_issuer_that_goes_away_ends_known_tokens_with_503_when_its_last_keys_are_too_old(
    sqlite: Database,
) -> None:
    clock, one = Clock(), issuer(keys_good_for_s=60)
    published: list[bytes] = [jwks(KEY)]

    async def fetch(_url: str) -> bytes:
        if not published:
            raise ConnectionError
        return published[0]

    directory, token = directory_with(sqlite, one, FetchedKeys(one, fetch, clock.monotonic), cache_s=1000), KEY.sign()
    await directory.resolve(token)
    published.clear()
    clock.seconds += 59
    assert directory.known(token) is not None
    assert await directory.resolve(KEY.sign(jti="2"))
    clock.seconds += 2
    assert directory.known(token) is None
    with pytest.raises(Unavailable):
        await directory.resolve(token)
    published.append(jwks(KEY))
    clock.seconds += 11
    assert (await directory.resolve(token)).caller.key.startswith("jwt:corp:")


async def test_a_withdrawn_key_ends_the_tokens_that_were_checked_with_it(sqlite: Database) -> None:
    clock, one, other = Clock(), issuer(), SigningKey("k2")
    published = [jwks(KEY)]

    async def fetch(_url: str) -> bytes:
        return published[0]

    directory = directory_with(sqlite, one, FetchedKeys(one, fetch, clock.monotonic), cache_s=1000)
    token = KEY.sign()
    await directory.resolve(token)
    published[0] = jwks(other)
    clock.seconds += 11
    await directory.resolve(other.sign())  # its kid was never seen: the keys are fetched
    assert directory.known(token) is None
    clock.seconds += 11
    with pytest.raises(Unauthenticated):
        await directory.resolve(token)


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"])
async def test_a_redirect_is_not_followed(status: str) -> None:
    async with (
        publishing(answering(jwks(KEY))) as (elsewhere, asked_elsewhere),
        publishing(answering(b"", status, f"location: {elsewhere}")) as (url, _),
    ):
        with pytest.raises(BadKeySet, match="status 30"):
            await fetch_jwks(url)
        assert asked_elsewhere == []


@pytest.mark.parametrize("status", ["404 Not Found", "500 No", "204 No Content"])
async def test_any_other_answer_is_no_key_set(status: str) -> None:
    async with publishing(answering(b"", status)) as (url, _):
        with pytest.raises(BadKeySet, match="status"):
            await fetch_jwks(url)


async def test_a_document_without_end_is_cut_off_at_its_bound() -> None:
    sent = 0

    async def behave(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")
        while True:
            writer.write(b" " * 65_536)
            await writer.drain()
            sent += 65_536

    async with publishing(behave) as (url, _):
        with pytest.raises(BadKeySet, match="larger than"):
            await fetch_jwks(url)
    assert sent < 200 * MAX_BYTES


async def test_a_document_that_unpacks_to_more_than_it_weighs_is_not_unpacked() -> None:
    bomb = gzip.compress(b" " * (64 << 20))
    async with publishing(answering(bomb, "200 OK", "content-encoding: gzip")) as (url, _):
        assert len(await fetch_jwks(url)) == len(bomb)


async def test_an_issuer_that_drips_holds_a_fetch_no_longer_than_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks_module, "FETCH_S", 0.3)

    async def behave(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with publishing(behave) as (url, _), asyncio.timeout(3):
        with pytest.raises(Unavailable):
            await FetchedKeys(issuer(jwks_url=url), fetch_jwks).find("k1", "ES256")


async def test_an_issuer_that_is_not_there_is_503(sqlite: Database) -> None:
    async with publishing(answering(b"")) as (url, _):
        pass
    one = issuer(jwks_url=url)
    directory = directory_with(sqlite, one, FetchedKeys(one, fetch_jwks))
    for _ in range(3):
        with pytest.raises(Unavailable) as refused:
            await directory.resolve(KEY.sign())
        assert refused.value.retry_after_ms is not None
    with pytest.raises(Unauthenticated):
        await directory.resolve("garbage")


async def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with publishing(answering(b"")) as (proxy, asked_proxy), publishing(answering(jwks(KEY))) as (url, _):
        monkeypatch.setenv("http_proxy", proxy.removesuffix("/jwks"))
        monkeypatch.delenv("no_proxy", raising=False)
        assert await fetch_jwks(url) == jwks(KEY)
        assert asked_proxy == []
