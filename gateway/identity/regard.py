"""How principals are regarded, changed by hand or by a program: contained, released, never to be contained, or put in
any other state.

    one transaction: the principal's row, and who changed it, when and why  ->  the organisation's new epoch

The row is what counts: a gateway that sees the new epoch loads it with the next request, and so does one that has just
started, or whose Redis has lost everything. What is so already is not written again, but the gateways are told again.

Errors: BadRegard, BadName; sqlalchemy.exc.SQLAlchemyError as the database raises it.
"""

import unicodedata
from collections.abc import Callable
from functools import partial
from typing import get_args

import msgspec
from redis.asyncio import Redis

from gateway.core.caller import Regard
from gateway.core.facts import State
from gateway.identity.epoch import tell_gateways
from gateway.identity.names import check_name
from gateway.storage import regard as storage
from gateway.storage.database import Database
from gateway.storage.regard import RegardChange, Regarded
from gateway.telemetry import clock

STATES: tuple[State, ...] = get_args(State)
MAX_REASON = 256
MAX_CLUSTER = 64
MAX_LIFE_MS = 10 * 365 * 86_400_000
HISTORY = 20
"""Changes that are shown of a principal."""
PAGE = 100


class BadRegard(ValueError):
    """A principal cannot be regarded so; the message says why, and what to do."""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How a principal is regarded. `state`: now. `changes`: the last ones, the newest first."""

    principal: str
    state: State
    regard: Regard
    changes: tuple[RegardChange, ...]


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a change. `changed`: false where it was so already. `told`: whether the gateways were; if not, they
    go on as before until their cache's life is over."""

    principal: str
    organisation: str
    was: Regard
    regard: Regard
    changed: bool
    told: bool


async def contain(
    database: Database,
    redis: Redis,
    partitions: int,
    principal: str,
    *,
    author: str,
    reason: str,
    for_ms: int | None = None,
    cluster: str | None = None,
) -> Done | None:
    """Contain it, for so long or until it is released; None where there is no such principal. A principal that may
    never be contained is refused."""
    return await regard_as(
        database,
        redis,
        partitions,
        principal,
        "contained",
        author=author,
        reason=reason,
        for_ms=for_ms,
        cluster=cluster,
    )


async def release(
    database: Database, redis: Redis, partitions: int, principal: str, *, author: str, reason: str
) -> Done | None:
    """Regard it as normal again. Its score and its cluster stay."""
    return await regard_as(database, redis, partitions, principal, "normal", author=author, reason=reason)


async def regard_as(
    database: Database,
    redis: Redis,
    partitions: int,
    principal: str,
    state: State,
    *,
    author: str,
    reason: str,
    for_ms: int | None = None,
    score: float | None = None,
    cluster: str | None = None,
) -> Done | None:
    """Put it in a state, for so long (then it is normal again) or for good. `score` and `cluster` stay as they are
    where they are not given; an empty `cluster` takes it out of its cluster."""
    if state not in STATES:
        raise BadRegard(f"{state[:60]!r} is no state: there are {', '.join(STATES)}")
    if state == "normal" and for_ms is not None:
        raise BadRegard("a principal is not normal for a time only: leave the time out")
    if for_ms is not None and not 1000 <= for_ms <= MAX_LIFE_MS:
        raise BadRegard("the time must be from 1 second to 10 years; for good is without one")
    if cluster:
        check_name("cluster", cluster)
        if len(cluster) > MAX_CLUSTER:
            raise BadRegard(f"the cluster must not be longer than {MAX_CLUSTER} characters")
    if score is not None and not 0 <= score < float("inf"):
        raise BadRegard("the score must be a number from 0")
    now_ms = clock.now_ms()
    became = partial(
        _in_state,
        state=state,
        until_ms=None if for_ms is None else now_ms + for_ms,
        more={name: value for name, value in (("score", score), ("cluster", cluster)) if value is not None},
    )
    return await _change(database, redis, partitions, principal, became, author, reason, now_ms)


async def set_never_contain(
    database: Database, redis: Redis, partitions: int, principal: str, on: bool, *, author: str, reason: str
) -> Done | None:
    """Put it on the never-contain list, or take it off. One that is contained is released by that."""
    became = partial(_never_contained, on=on)
    return await _change(database, redis, partitions, principal, became, author, reason, clock.now_ms())


async def standing(database: Database, principal: str) -> Standing | None:
    """How it is regarded, with the last changes of that; None where there is no such principal."""
    async with database.read() as connection:
        found = await storage.find(connection, principal)
        if found is None:
            return None
        changes = await storage.changes(connection, principal, HISTORY)
    regard, _ = found
    return Standing(principal=principal, state=regard.state_at(clock.now_ms()), regard=regard, changes=changes)


async def list_regarded(
    database: Database, *, state: State | None = None, cluster: str | None = None, after: str = "", limit: int = PAGE
) -> list[Regarded]:
    """Those in this state or cluster; without either, all who are not regarded as usual. By id, a page at a time."""
    async with database.read() as connection:
        found = await storage.list_regarded(
            connection, state=state, cluster=cluster, after=after, limit=limit, now_ms=clock.now_ms()
        )
    return list(found)


def check_reason(reason: str) -> str:
    """Raises BadRegard."""
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in reason):
        raise BadRegard("the reason must not contain control characters")
    if not reason.strip() or len(reason) > MAX_REASON:
        raise BadRegard(f"the reason must have from 1 to {MAX_REASON} characters: say why, others will ask")
    return reason.strip()


async def _change(
    database: Database,
    redis: Redis,
    partitions: int,
    principal: str,
    becoming: Callable[[Regard], Regard],
    author: str,
    reason: str,
    now_ms: int,
) -> Done | None:
    author, reason = check_name("author", author), check_reason(reason)
    async with database.write() as connection:
        found = await storage.find(connection, principal, lock=True)
        if found is None:
            return None
        was, organisation = found
        became = becoming(was)
        if became != was:
            await storage.change(connection, principal, was, became, author=author, reason=reason, at_ms=now_ms)
    return Done(
        principal=principal,
        organisation=organisation,
        was=was,
        regard=became,
        changed=became != was,
        told=await tell_gateways(redis, organisation, partitions),
    )


def _in_state(was: Regard, *, state: State, until_ms: int | None, more: dict[str, float | str]) -> Regard:
    if state == "contained" and was.never_contain:
        raise BadRegard(
            "the principal is on the never-contain list: take it off first (`catflap principal never-contain --off`)"
        )
    return msgspec.structs.replace(was, state=state, until_ms=until_ms, **more)


def _never_contained(was: Regard, *, on: bool) -> Regard:
    if on and was.state == "contained":
        was = msgspec.structs.replace(was, state="normal", until_ms=None)
    return msgspec.structs.replace(was, never_contain=on)
