"""Two secrets of a key, two peppers, what a key is held to, and limits of its principal: over real databases."""

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis
from sqlalchemy import text, update

from gateway.core.caller import Override
from gateway.core.errors import Unauthenticated, Unavailable
from gateway.identity import pepper as peppers
from gateway.identity.bounds import check_bounds
from gateway.identity.directory import Directory
from gateway.identity.issue import Rotated, count_peppers, issue_key, revoke_key, rotate_key, show_key
from gateway.identity.keys import make_token
from gateway.identity.principals import remove_limit, set_limit, show_principal
from gateway.storage.database import Database
from gateway.storage.tables import key as key_table
from tests.integration.test_directory import PARTITIONS, Clock, GatedDatabase, directory_of, epoch_of, issued, redis
from tests.support.databases import PEPPER

__all__ = ["redis"]

DAY_MS = 86_400_000
NEW_PEPPER = b"the pepper after PEPPER"


async def rotated(database: Database, client: Redis, key_id: str, overlap_ms: int = DAY_MS) -> Rotated:
    found = await rotate_key(database, client, PARTITIONS, PEPPER, key_id, overlap_ms)
    assert isinstance(found, Rotated)
    return found


def directory_now(database: Database, **options: Any) -> Directory:
    """By the clocks of this machine, as a gateway has it."""
    return Directory(database, PEPPER, **{"cache_s": 60, "cache_size": 100, "timeout_s": 5, **options})


async def test_during_an_overlap_both_secrets_open_the_same_key(database: Database, redis: Redis) -> None:
    key = await issued(database)
    second = await rotated(database, redis, key.record.id)
    assert second.record.id == key.record.id
    assert second.token != key.token
    assert not second.ended_early
    directory = directory_now(database)
    for token in (key.token, second.token):
        assert (await directory.resolve(token)).caller.key == key.record.id
        assert directory.known(token) is not None


async def test_when_the_overlap_is_over_the_older_secret_is_refused_from_the_cache_too(
    sqlite: Database, redis: Redis
) -> None:
    key = await issued(sqlite)
    second = await rotated(sqlite, redis, key.record.id, 10_000)
    clock = Clock()
    assert second.record.old_until_ms is not None
    clock.seconds = second.record.old_until_ms / 1000 - 1
    directory = directory_of(sqlite, clock)
    await directory.resolve(key.token)
    assert directory.known(key.token) is not None
    clock.seconds += 1
    assert directory.known(key.token) is None
    with pytest.raises(Unauthenticated):
        await directory.resolve(key.token)
    assert directory.known(second.token) is not None


async def test_an_overlap_of_nothing_ends_the_older_secret_at_once(sqlite: Database, redis: Redis) -> None:
    key = await issued(sqlite)
    second = await rotated(sqlite, redis, key.record.id, 0)
    directory = directory_now(sqlite)
    with pytest.raises(Unauthenticated):
        await directory.resolve(key.token)
    assert (await directory.resolve(second.token)).caller.key == key.record.id


async def test_rotated_twice_within_an_overlap_the_oldest_secret_ends_at_once(database: Database, redis: Redis) -> None:
    first = await issued(database)
    second = await rotated(database, redis, first.record.id)
    third = await rotated(database, redis, first.record.id)
    assert third.ended_early
    directory = directory_now(database)
    with pytest.raises(Unauthenticated):
        await directory.resolve(first.token)
    for token in (second.token, third.token):
        assert (await directory.resolve(token)).caller.key == first.record.id


async def test_revoking_ends_both_secrets_at_once(database: Database, redis: Redis) -> None:
    key = await issued(database)
    second = await rotated(database, redis, key.record.id)
    directory = directory_now(database)
    for token in (key.token, second.token):
        await directory.resolve(token)
    await revoke_key(database, redis, PARTITIONS, key.record.id)
    epoch = await epoch_of(redis, key.record.organisation)
    for token in (key.token, second.token):
        with pytest.raises(Unauthenticated):
            await directory.refresh(token, epoch)
    assert not isinstance(
        await rotate_key(database, redis, PARTITIONS, PEPPER, key.record.id, DAY_MS), Rotated
    )  # and no rotation brings it back
    assert await rotate_key(database, redis, PARTITIONS, PEPPER, "key_none", DAY_MS) is None


async def test_a_gateway_that_remembers_the_key_takes_its_new_secret_without_being_told(
    sqlite: Database, redis: Redis
) -> None:
    gated, clock = GatedDatabase(sqlite), Clock()
    directory, key = directory_of(gated, clock), await issued(sqlite)
    await directory.resolve(key.token)
    second = await rotated(sqlite, redis, key.record.id)
    clock.seconds += 1.1
    assert (await directory.resolve(second.token)).caller.key == key.record.id
    assert gated.reads == 2


async def test_made_up_secrets_of_a_known_key_cost_one_query_a_second(sqlite: Database) -> None:
    gated, clock = GatedDatabase(sqlite), Clock()
    directory, key = directory_of(gated, clock), await issued(sqlite)
    await directory.resolve(key.token)
    for number in range(100):
        clock.seconds += 0.05
        with pytest.raises(Unauthenticated):
            await directory.resolve(make_token(key.record.id, bytes([number]) * 24))
    assert gated.reads <= 1 + 100 * 0.05 + 1
    assert directory.known(key.token) is not None


async def test_with_the_database_away_a_secret_that_may_be_new_is_503_and_the_known_one_works(sqlite: Database) -> None:
    gated, clock = GatedDatabase(sqlite), Clock()
    directory, key = directory_of(gated, clock, timeout_s=0.2), await issued(sqlite)
    await directory.resolve(key.token)
    clock.seconds += 2
    gated.gates = [asyncio.Event()]
    with pytest.raises(Unavailable):
        await directory.resolve(make_token(key.record.id, bytes(24)))
    assert directory.known(key.token) is not None
    await directory.close()


async def test_keys_move_to_the_new_pepper_on_use_and_what_is_left_is_told(database: Database) -> None:
    used, unused = await issued(database), await issued(database)
    assert await count_peppers(database, [NEW_PEPPER, PEPPER]) == [0, 2, 0]
    directory = Directory(database, NEW_PEPPER, old_pepper=PEPPER, cache_s=60, cache_size=10, timeout_s=5)
    assert (await directory.resolve(used.token)).caller.key == used.record.id
    assert directory.known(used.token) is not None  # from now on one digest is enough
    await directory._peppers.moves.write(database)
    assert await count_peppers(database, [NEW_PEPPER, PEPPER]) == [1, 1, 0]
    after = Directory(database, NEW_PEPPER, cache_s=60, cache_size=10, timeout_s=5)  # CATFLAP_PEPPER_OLD is gone
    assert (await after.resolve(used.token)).caller.key == used.record.id
    with pytest.raises(Unauthenticated):
        await after.resolve(unused.token)


async def test_gateways_that_know_both_peppers_in_either_order_serve_the_same_keys(database: Database) -> None:
    """In the middle of the rolls: some gateways write under the new pepper already, others still under the old one."""
    key = await issued(database)
    options: dict[str, Any] = {"cache_s": 60, "cache_size": 10, "timeout_s": 5}
    for _ in range(2):
        for current, other in ((NEW_PEPPER, PEPPER), (PEPPER, NEW_PEPPER)):
            directory = Directory(database, current, old_pepper=other, **options)
            assert (await directory.resolve(key.token)).caller.key == key.record.id
            await directory._peppers.moves.write(database)
            assert await count_peppers(database, [current, other]) == [1, 0, 0]


async def test_both_secrets_of_a_rotated_key_move_each_on_its_own_use(database: Database, redis: Redis) -> None:
    key = await issued(database)
    second = await rotated(database, redis, key.record.id)
    directory = Directory(database, NEW_PEPPER, old_pepper=PEPPER, cache_s=60, cache_size=10, timeout_s=5)
    for token, left in ((key.token, 1), (second.token, 0)):
        await directory.resolve(token)
        await directory._peppers.moves.write(database)
        assert await count_peppers(database, [NEW_PEPPER, PEPPER]) == [2 - left, left, 0]


async def test_a_secret_that_was_rotated_away_meanwhile_is_not_written_back(sqlite: Database, redis: Redis) -> None:
    key = await issued(sqlite)
    directory = Directory(sqlite, NEW_PEPPER, old_pepper=PEPPER, cache_s=60, cache_size=10, timeout_s=5)
    await directory.resolve(key.token)
    for _ in range(2):
        await rotated(sqlite, redis, key.record.id)
    await directory._peppers.moves.write(sqlite)
    with pytest.raises(Unauthenticated):
        await directory_now(sqlite, old_pepper=NEW_PEPPER).resolve(key.token)


async def test_moves_are_written_in_the_background_and_wait_for_a_database_that_is_away(
    sqlite: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peppers, "PAUSE_S", 0.02)
    key = await issued(sqlite)
    directory = Directory(sqlite, NEW_PEPPER, old_pepper=PEPPER, cache_s=60, cache_size=10, timeout_s=5)
    async with sqlite.write() as connection:
        await connection.execute(text("alter table key rename to hidden"))
    keeping = asyncio.create_task(directory.keep_moving_keys())
    directory._peppers.moves.add(peppers.Move(key.record.id, b"x", b"y"))
    await asyncio.sleep(0.2)
    assert len(directory._peppers.moves) == 1
    async with sqlite.write() as connection:
        await connection.execute(text("alter table hidden rename to key"))
    async with asyncio.timeout(5):
        while len(directory._peppers.moves):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    keeping.cancel()


async def test_keys_from_before_peppers_were_told_apart_work_and_are_told_apart_on_use(database: Database) -> None:
    key = await issued(database)
    async with database.write() as connection:
        await connection.execute(update(key_table).values(pepper=None))
    assert await count_peppers(database, [PEPPER, b""]) == [0, 0, 1]
    directory = directory_now(database)
    await directory.resolve(key.token)
    await directory._peppers.moves.write(database)
    assert await count_peppers(database, [PEPPER, b""]) == [1, 0, 0]


async def test_what_a_key_is_held_to_comes_with_its_row(database: Database) -> None:
    bounds = check_bounds(scopes=["chat", "tensors"], models=["demo"], addresses=["10.0.0.0/8"], tags=["ci", "night"])
    key = await issue_key(
        database, PEPPER, organisation="acme", project="web", principal="ann", plan="free", bounds=bounds
    )
    known = await directory_now(database).resolve(key.token)
    assert known.caller.scopes == frozenset({"chat", "tensors"})
    assert known.caller.models == frozenset({"demo"})
    assert known.caller.tags == ("ci", "night")
    assert [str(network) for network in known.networks or ()] == ["10.0.0.0/8"]
    free = await directory_now(database).resolve((await issued(database)).token)
    assert (free.caller.scopes, free.caller.models, free.caller.tags, free.networks) == (None, None, (), None)
    shown = await show_key(database, key.record.id)
    assert shown == key.record
    assert shown.scopes == ("chat", "tensors")


async def test_limits_of_a_principal_come_with_each_of_its_keys_and_change_with_the_epoch(
    database: Database, redis: Redis
) -> None:
    first, second = await issued(database, principal="ann"), await issued(database, principal="ann")
    stranger = await issued(database, principal="bob")
    directory = directory_now(database)
    assert (await directory.resolve(first.token)).caller.overrides == ()
    principal = first.record.principal
    for override in (Override("tokens", 7, "minute"), Override("cost", 9, "month", "demo")):
        changed = await set_limit(database, redis, PARTITIONS, principal, override)
        assert changed is not None
        assert changed.told
    epoch = await epoch_of(redis, first.record.organisation)
    expected = (Override("cost", 9, "month", "demo"), Override("tokens", 7, "minute"))
    for key in (first, second):
        assert set((await directory.refresh(key.token, epoch)).caller.overrides) == set(expected)
    assert (await directory.refresh(stranger.token, epoch)).caller.overrides == ()
    shown = await show_principal(database, principal)
    assert shown is not None
    assert shown.limits == expected
    removed = await remove_limit(database, redis, PARTITIONS, principal, Override("tokens", 1, "minute"))
    assert removed is not None
    assert removed.record.limits == expected[:1]
    again = await remove_limit(database, redis, PARTITIONS, principal, Override("tokens", 1, "minute"))
    assert again is not None
    assert not again.found
    assert await set_limit(database, redis, PARTITIONS, "prin_none", Override("tokens", 1, "minute")) is None
