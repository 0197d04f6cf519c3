"""`catflap principal contain|release|never-contain|regard|list`: how principals are regarded, by hand."""

import getpass
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from typing import Annotated

import typer
from redis.asyncio import Redis

from gateway.commands.console import fail, read_settings
from gateway.commands.directory import moment, run, telling, to_json, warn_untold
from gateway.commands.times import span_ms
from gateway.core.caller import Regard
from gateway.identity import regard
from gateway.identity.regard import Done, Standing
from gateway.settings import Settings
from gateway.storage.database import Database
from gateway.storage.regard import Regarded

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
PrincipalId = Annotated[str, typer.Argument(help="The principal's id: prin_…", metavar="PRINCIPAL")]
Author = Annotated[str | None, typer.Option(help="Who does it. Default: the name that you are logged in by.")]
For = Annotated[str | None, typer.Option("--for", help="For so long: 90m, 24h, 7d. Without it: until released.")]
Cluster = Annotated[str | None, typer.Option(help="The group of linked principals that it belongs to.")]


class OneState(StrEnum):
    """The states, as an option takes them."""

    NORMAL = "normal"
    WATCH = "watch"
    SUSPICIOUS = "suspicious"
    CONTAINED = "contained"
    BLOCKED = "blocked"


def contain(
    principal: PrincipalId,
    reason: Annotated[str, typer.Option(help="Why: one sentence, kept for ever.")],
    lasting: For = None,
    cluster: Cluster = None,
    author: Author = None,
    as_json: AsJson = False,
) -> None:
    """Contain a principal from its next request on. It is not told; what it then gets is for policies to say."""
    put(principal, OneState.CONTAINED, reason, lasting, cluster, author, as_json)


def release(
    principal: PrincipalId,
    reason: Annotated[str, typer.Option(help="Why.")] = "released by hand",
    author: Author = None,
    as_json: AsJson = False,
) -> None:
    """Regard a principal as normal again, from its next request on."""
    put(principal, OneState.NORMAL, reason, None, None, author, as_json)


def regard_as(
    principal: PrincipalId,
    state: Annotated[OneState, typer.Argument(help="The state.")],
    reason: Annotated[str, typer.Option(help="Why: one sentence, kept for ever.")],
    lasting: For = None,
    cluster: Cluster = None,
    author: Author = None,
    as_json: AsJson = False,
) -> None:
    """Put a principal in any state: normal, watch, suspicious, contained, blocked. Policies say what that means."""
    put(principal, state, reason, lasting, cluster, author, as_json)


def never_contain(
    principal: PrincipalId,
    off: Annotated[bool, typer.Option("--off", help="Take it off the list again.")] = False,
    reason: Annotated[str, typer.Option(help="Why.")] = "by hand",
    author: Author = None,
    as_json: AsJson = False,
) -> None:
    """Put a principal on the never-contain list, which wins over every policy. One that is contained is released."""
    by = author or whoever()

    async def change(settings: Settings, database: Database, redis: Redis) -> Done | None:
        return await regard.set_never_contain(
            database, redis, settings.partitions, principal, not off, author=by, reason=reason
        )

    make(principal, change, as_json)


def list_(
    state: Annotated[OneState | None, typer.Option(help="Only those in this state.")] = None,
    cluster: Annotated[str | None, typer.Option(help="Only those of this cluster.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many.")] = 1000,
    after: Annotated[str, typer.Option(help="Those behind this id, to see the next ones.")] = "",
    as_json: AsJson = False,
) -> None:
    """List principals that are not regarded as usual, with the reason of the last change."""
    found = run(
        read_settings(),
        lambda database: regard.list_regarded(
            database, state=None if state is None else state.value, cluster=cluster, after=after, limit=limit
        ),
    )
    typer.echo(to_json(found) if as_json else table(found, limit))


def put(
    principal: str,
    state: OneState,
    reason: str,
    lasting: str | None,
    cluster: str | None,
    author: str | None,
    as_json: bool,
) -> None:
    """Put it in a state and say so."""
    for_ms = None if lasting is None else span_ms(lasting, "--for")
    by = author or whoever()

    async def change(settings: Settings, database: Database, redis: Redis) -> Done | None:
        return await regard.regard_as(
            database,
            redis,
            settings.partitions,
            principal,
            state.value,
            author=by,
            reason=reason,
            for_ms=for_ms,
            cluster=cluster,
        )

    make(principal, change, as_json)


def make(principal: str, change: Callable[[Settings, Database, Redis], Awaitable[Done | None]], as_json: bool) -> None:
    """Do it, and say how the principal is regarded now."""
    settings = read_settings()

    async def work(database: Database) -> Done | None:
        async with telling(settings) as redis:
            return await change(settings, database, redis)

    done = run(settings, work)
    if done is None:
        fail(f"There is no principal {principal!r}.")
    if not done.told:
        warn_untold(settings, "The database is changed" if done.changed else "Nothing had to be changed")
    typer.echo(
        to_json(done) if as_json else f"{principal} is {summary(done.regard)}" + ("" if done.changed else " already")
    )


def whoever() -> str:
    """The name of who is logged in; a container may have none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def summary(found: Regard) -> str:
    """`contained until …, score 3.5, of cluster ring-1`."""
    parts: list[str] = [found.state + (f" until {moment(found.until_ms)}" if found.until_ms is not None else "")]
    if found.score:
        parts.append(f"score {found.score:g}")
    if found.cluster:
        parts.append(f"of cluster {found.cluster}")
    if found.never_contain:
        parts.append("on the never-contain list")
    return ", ".join(parts)


def described(standing: Standing) -> list[str]:
    """Lines for a person: how it is regarded, and what changed that."""
    over = standing.state != standing.regard.state
    told = [f"{'regarded':<13} {summary(standing.regard)}" + (" (over: normal again)" if over else "")]
    for change in standing.changes:
        told.append(f"{'change':<13} {moment(change.at_ms)} {summary(change.became)}")
        told.append(f"{'':<13} by {change.author}: {change.reason}")
    return told


def table(found: Sequence[Regarded], limit: int) -> str:
    """One principal a line."""
    if not found:
        return "There are none."
    rows = [("PRINCIPAL", "NAME", "ORGANISATION", "STATE", "SCORE", "CLUSTER", "UNTIL", "REASON")]
    for one in found:
        state = one.state + (" (never contain)" if one.never_contain else "")
        why = "" if one.reason is None else f"{one.reason} ({one.author})"
        until = moment(one.until_ms) or "-"
        rows.append((one.id, one.name, one.organisation_name, state, f"{one.score:g}", one.cluster or "-", until, why))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if len(found) == limit:
        lines.append(f"There may be more: --after {found[-1].id}")
    return "\n".join(lines)


def add_to(app: typer.Typer) -> None:
    """Make them subcommands of `catflap principal`."""
    app.command()(contain)
    app.command()(release)
    app.command("never-contain")(never_contain)
    app.command("regard")(regard_as)
    app.command("list")(list_)
