"""The directory's cache in front of real databases and a real Redis."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.core.errors import Unauthenticated, Unavailable
from gateway.core.ids import checksum, partition_of
from gateway.identity.directory import Directory
from gateway.identity.epoch import bump_epoch
from gateway.identity.issue import IssuedKey, issue_key, revoke_key
from gateway.identity.keys import BODY_END, make_token
from gateway.quota.client import connect_redis
from gateway.quota.keys import epoch_key
from gateway.storage import database as storage
from gateway.storage.database import Database, connect
from gateway.storage.migrate import migrate
from tests.support.databases import PEPPER
from tests.support.postgres import PostgresServer
from tests.support.redis import RedisServer

PARTITIONS = 64


class Clock:
    """Monotonic seconds and wall milliseconds, by hand."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds

    def now_ms(self) -> int:
        return int(self.seconds * 1000)


class GatedDatabase(Database):
    """A real database whose reads can be held back after they have read, and are counted."""

    def __init__(self, database: Database) -> None:
        super().__init__(database.engine)
        self.reads = 0
        self.gates: list[asyncio.Event] = []
        self.has_read = asyncio.Event()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        self.reads += 1
        gate = self.gates.pop(0) if self.gates else None
        async with super().read() as connection:
            yield connection
            self.has_read.set()
            if gate is not None:
                await gate.wait()


def directory_of(database: Database, clock: Clock | None = None, **options: Any) -> Directory:
    clock = clock or Clock()
    values: dict[str, Any] = {"cache_s": 60.0, "cache_size": 1000, "timeout_s": 5.0}
    return Directory(database, PEPPER, **{**values, **options}, monotonic=clock.monotonic, now_ms=clock.now_ms)


async def issued(database: Database, **fields: Any) -> IssuedKey:
    values: dict[str, Any] = {"organisation": "acme", "project": "web", "principal": None, "plan": "free"}
    return await issue_key(database, PEPPER, **{**values, **fields})


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    client = connect_redis(redis_server.url, timeout_s=2)
    yield client
    await client.aclose()


async def epoch_of(redis: Redis, organisation: str) -> int:
    """As admission reads it."""
    return int(await redis.get(epoch_key(partition_of(organisation, PARTITIONS), organisation)) or 0)


async def test_a_key_is_known_after_it_was_resolved_once(database: Database) -> None:
    gated = GatedDatabase(database)
    directory, key = directory_of(gated), await issued(database)
    assert directory.known(key.token) is None
    known = await directory.resolve(key.token)
    assert known.caller.key == key.record.id
    assert known.caller.organisation == key.record.organisation
    assert known.caller.principal == key.record.principal
    assert known.caller.project == key.record.project
    assert known.caller.plan == "free"
    assert directory.known(key.token) is known
    assert gated.reads == 1


async def test_a_revoked_key_stops_at_its_next_request(database: Database, redis: Redis) -> None:
    directory, key = directory_of(database), await issued(database)
    await directory.resolve(key.token)
    known = await directory.refresh(key.token, await epoch_of(redis, key.record.organisation))
    revoked = await revoke_key(database, redis, PARTITIONS, key.record.id)
    assert revoked is not None
    assert revoked.told
    epoch = await epoch_of(redis, key.record.organisation)
    assert epoch != known.epoch
    with pytest.raises(Unauthenticated):
        await directory.refresh(key.token, epoch)
    assert directory.known(key.token) is None
    with pytest.raises(Unauthenticated):
        await directory.resolve(key.token)


async def test_one_keys_revocation_leaves_its_neighbours_working(database: Database, redis: Redis) -> None:
    directory = directory_of(database)
    key, neighbour = await issued(database), await issued(database)
    for each in (key, neighbour):
        await directory.resolve(each.token)
        await directory.refresh(each.token, 0)
    await revoke_key(database, redis, PARTITIONS, key.record.id)
    epoch = await epoch_of(redis, key.record.organisation)
    assert (await directory.refresh(neighbour.token, epoch)).epoch == epoch
    assert directory.known(neighbour.token) is not None
    assert directory.known(key.token) is None  # dropped with the organisation, before anybody asked


async def test_no_epoch_comes_twice(redis: Redis) -> None:
    epochs = [await bump_epoch(redis, "org_1", PARTITIONS) for _ in range(100)]
    assert epochs == sorted(set(epochs))
    far = 2**52
    key = epoch_key(partition_of("org_1", PARTITIONS), "org_1")
    await redis.set(key, far)  # as if the clock had stepped back since
    assert await bump_epoch(redis, "org_1", PARTITIONS) == far + 1
    assert 0 < await redis.ttl(key) <= 30 * 24 * 3600


async def test_a_load_in_flight_does_not_bring_a_revoked_key_back(sqlite: Database, redis: Redis) -> None:
    """Field notes, section 3, item 8."""
    gated = GatedDatabase(sqlite)
    directory, key = directory_of(gated), await issued(sqlite)
    gate = asyncio.Event()
    gated.gates = [gate]
    slow = asyncio.create_task(directory.resolve(key.token))
    await gated.has_read.wait()  # it has read the key as it was: good
    await revoke_key(sqlite, redis, PARTITIONS, key.record.id)
    with pytest.raises(Unauthenticated):
        await directory.refresh(key.token, await epoch_of(redis, key.record.organisation))
    gate.set()
    stale = await slow
    assert stale.epoch is None  # so that admission's epoch differs, and it is loaded again
    epoch = await epoch_of(redis, key.record.organisation)
    with pytest.raises(Unauthenticated):
        await directory.refresh(key.token, epoch)
    assert directory.known(key.token) is None


async def test_a_load_in_flight_does_not_overwrite_what_a_refresh_has_loaded(sqlite: Database) -> None:
    gated = GatedDatabase(sqlite)
    directory, key = directory_of(gated), await issued(sqlite)
    gate = asyncio.Event()
    gated.gates = [gate]
    slow = asyncio.create_task(directory.resolve(key.token))
    await gated.has_read.wait()
    fresh = await directory.refresh(key.token, 7)
    gate.set()
    assert (await slow).epoch is None
    assert directory.known(key.token) is fresh


async def test_an_entry_that_grew_old_is_loaded_once_and_keeps_its_epoch(sqlite: Database) -> None:
    gated, clock = GatedDatabase(sqlite), Clock()
    directory, key = directory_of(gated, clock), await issued(sqlite)
    await directory.resolve(key.token)
    await directory.refresh(key.token, 7)
    clock.seconds += 61
    assert directory.known(key.token) is None
    assert (await directory.resolve(key.token)).epoch == 7  # the epoch was known before this load began
    assert gated.reads == 3
    await directory.refresh(key.token, 7)
    assert gated.reads == 3


async def test_a_revocation_that_no_gateway_heard_of_holds_after_the_caches_life(sqlite: Database) -> None:
    clock = Clock()
    directory, key = directory_of(sqlite, clock), await issued(sqlite)
    nobody = connect_redis("unix:///nonexistent/redis.sock", timeout_s=0.1)
    await directory.resolve(key.token)
    revoked = await revoke_key(sqlite, nobody, PARTITIONS, key.record.id)
    assert revoked is not None
    assert not revoked.told
    assert directory.known(key.token) is not None
    clock.seconds += 60
    with pytest.raises(Unauthenticated):
        await directory.resolve(key.token)
    await nobody.aclose()


async def test_an_expired_key_is_refused_from_the_cache_too(sqlite: Database) -> None:
    clock = Clock()
    directory, key = directory_of(sqlite, clock), await issued(sqlite, expires_at_ms=1_010_000)
    await directory.resolve(key.token)
    clock.seconds += 9.999
    assert directory.known(key.token) is not None
    clock.seconds += 0.001
    assert directory.known(key.token) is None
    for ask in (directory.resolve(key.token), directory.refresh(key.token, 3)):
        with pytest.raises(Unauthenticated):
            await ask


async def test_a_cached_key_does_not_open_to_another_secret_with_the_same_id(sqlite: Database) -> None:
    """CVE-2026-35030: a cache keyed on a part of the token."""
    gated = GatedDatabase(sqlite)
    directory, key = directory_of(gated), await issued(sqlite)
    await directory.resolve(key.token)
    forged = make_token(key.record.id, bytes(24))
    assert directory.known(forged) is None
    with pytest.raises(Unauthenticated):
        await directory.resolve(forged)
    assert gated.reads == 1
    body = key.token[: BODY_END - 1] + ("0" if key.token[BODY_END - 1] != "0" else "1")
    with pytest.raises(Unauthenticated):
        await directory.resolve(body + checksum(body))
    assert directory.known(key.token) is not None


async def test_all_bad_keys_get_one_message_that_does_not_repeat_them(sqlite: Database, redis: Redis) -> None:
    directory = directory_of(sqlite)
    key, dead = await issued(sqlite), await issued(sqlite)
    await revoke_key(sqlite, redis, PARTITIONS, dead.record.id)
    unknown = make_token("key_" + "0" * 17, bytes(24))
    forged = make_token(key.record.id, bytes(24))
    bodies = []
    for token in ("", "sk-nonsense", "' or 1=1 --", unknown, forged, dead.token):
        with pytest.raises(Unauthenticated) as refused:
            await directory.resolve(token)
        bodies.append(refused.value.body())
        assert token == "" or token not in f"{refused.value.body()}{refused.value.detail}"
    assert all(body == bodies[0] for body in bodies)
    assert bodies[0] == {
        "error": {
            "message": "Incorrect API key provided. Ask whoever runs this gateway for a valid key.",
            "type": "invalid_request_error",
            "param": None,
            "code": "invalid_api_key",
        }
    }


async def test_many_who_ask_for_one_key_share_one_query(sqlite: Database) -> None:
    gated = GatedDatabase(sqlite)
    directory, key = directory_of(gated), await issued(sqlite)
    found = await asyncio.gather(*(directory.resolve(key.token) for _ in range(50)))
    assert gated.reads == 1
    await asyncio.gather(*(directory.refresh(key.token, 9) for _ in range(50)))
    assert gated.reads == 2
    assert all(each == found[0] for each in found)


async def test_who_stops_waiting_does_not_end_the_load_for_the_others(sqlite: Database) -> None:
    gated = GatedDatabase(sqlite)
    directory, key = directory_of(gated), await issued(sqlite)
    gate = asyncio.Event()
    gated.gates = [gate]
    first, second = (asyncio.create_task(directory.resolve(key.token)) for _ in range(2))
    await gated.has_read.wait()
    first.cancel()
    gate.set()
    assert (await second).caller.key == key.record.id
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_a_key_that_finds_no_place_at_the_database_waits_for_one(sqlite: Database) -> None:
    gated = GatedDatabase(sqlite)
    directory = directory_of(gated, max_loads=1)
    first, second = await issued(sqlite), await issued(sqlite)
    gate = asyncio.Event()
    gated.gates = [gate]
    slow = asyncio.create_task(directory.resolve(first.token))
    await gated.has_read.wait()
    waiting = asyncio.create_task(directory.resolve(second.token))
    gate.set()
    assert (await slow).caller.key == first.record.id
    assert (await waiting).caller.key == second.record.id


async def test_strangers_take_no_places_from_keys_that_are_known(sqlite: Database) -> None:
    gated = GatedDatabase(sqlite)
    directory, known = directory_of(gated, max_loads=1), await issued(sqlite)
    await directory.resolve(known.token)
    gate = asyncio.Event()
    gated.gates = [gate]
    gated.has_read.clear()
    stranger = asyncio.create_task(directory.resolve((await issued(sqlite)).token))
    await gated.has_read.wait()
    assert (await directory.refresh(known.token, 7)).epoch == 7
    gate.set()
    await stranger


async def test_more_waiting_keys_than_allowed_are_turned_away_with_503(
    sqlite: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.identity.loads.MAX_WAITING", 1)
    gated = GatedDatabase(sqlite)
    directory, first, second = directory_of(gated), await issued(sqlite), await issued(sqlite)
    gate = asyncio.Event()
    gated.gates = [gate]
    slow = asyncio.create_task(directory.resolve(first.token))
    await gated.has_read.wait()
    with pytest.raises(Unavailable) as refused:
        await directory.resolve(second.token)
    assert refused.value.status == 503
    gate.set()
    await slow
    await directory.resolve(second.token)


async def test_a_database_that_does_not_answer_means_503_within_the_timeout(sqlite: Database) -> None:
    gated = GatedDatabase(sqlite)
    directory, key = directory_of(gated, timeout_s=0.3), await issued(sqlite)
    gated.gates = [asyncio.Event()]
    with pytest.raises(Unavailable):
        await directory.resolve(key.token)
    await directory.close()
    assert (await directory.resolve(key.token)).caller.key == key.record.id


async def test_exhausted_database_connections_mean_503_and_not_401(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Field notes, section 3, item 10."""
    migrate(postgres_url)
    monkeypatch.setattr(storage, "POOL_SIZE", 1)
    monkeypatch.setattr(storage, "POOL_OVERFLOW", 0)
    database = connect(postgres_url, timeout_s=0.2)
    key = await issued(database)
    directory = directory_of(database, timeout_s=2)
    async with database.read():  # the only connection
        with pytest.raises(Unavailable) as refused:
            await directory.resolve(key.token)
        assert refused.value.status == 503
    assert (await directory.resolve(key.token)).caller.key == key.record.id
    await database.close()


async def test_with_the_database_gone_known_keys_work_and_others_get_503(postgres_server: PostgresServer) -> None:
    url = postgres_server.fresh()
    migrate(url)
    database, clock = connect(url, timeout_s=1), Clock()
    directory = directory_of(database, clock, timeout_s=1)
    known, unknown = await issued(database), await issued(database)
    await directory.resolve(known.token)
    postgres_server.stop()
    try:
        assert directory.known(known.token) is not None
        with pytest.raises(Unavailable):
            await directory.resolve(unknown.token)
        with pytest.raises(Unauthenticated):
            await directory.resolve("sk-nonsense")
        clock.seconds += 61
        with pytest.raises(Unavailable):
            await directory.resolve(known.token)
    finally:
        postgres_server.start()
    assert (await directory.resolve(unknown.token)).caller.key == unknown.record.id
    await database.close()


async def test_the_cache_stays_bounded_under_more_keys_than_it_may_hold(sqlite: Database) -> None:
    directory = directory_of(sqlite, cache_size=3)
    keys = [await issued(sqlite, organisation=f"org {number}") for number in range(6)]
    for key in keys:
        await directory.resolve(key.token)
    assert [directory.known(key.token) is not None for key in keys] == [False] * 3 + [True] * 3


async def test_keys_made_at_once_for_one_new_organisation_share_it(database: Database) -> None:
    keys = await asyncio.gather(*(issued(database, principal="ann") for _ in range(8)))
    assert len({key.record.organisation for key in keys}) == 1
    assert len({key.record.principal for key in keys}) == 1
    assert len({key.record.id for key in keys}) == 8
    assert {key.record.principal_kind for key in keys} == {"person"}
