"""`catflap principal`: who uses the gateway, and limits of their own. How they are regarded: commands/regard.py."""

from collections.abc import Awaitable, Callable
from typing import Annotated

import msgspec
import typer
from redis.asyncio import Redis

from gateway.commands import regard
from gateway.commands.console import BAD_USAGE, fail, read_settings
from gateway.commands.directory import moment, run, telling, to_json, warn_untold
from gateway.commands.erase import erase
from gateway.core.caller import Override
from gateway.identity.principals import Changed, PrincipalRecord, remove_limit, set_limit, show_principal
from gateway.identity.regard import Standing, standing
from gateway.settings import Settings
from gateway.storage.database import Database

app = typer.Typer(help="Principals: show, list, limit, contain, release, erase.", no_args_is_help=True)
app.command()(erase)
regard.add_to(app)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
PrincipalId = Annotated[str, typer.Argument(help="The principal's id: prin_…", metavar="PRINCIPAL")]


@app.command()
def show(principal: PrincipalId, as_json: AsJson = False) -> None:
    """Show a principal, its own limits, how it is regarded and what changed that."""

    async def look(database: Database) -> tuple[PrincipalRecord | None, Standing | None]:
        return await show_principal(database, principal), await standing(database, principal)

    record, regarded = run(read_settings(), look)
    if record is None or regarded is None:
        fail(f"There is no principal {principal!r}.")
    if as_json:
        typer.echo(to_json({**msgspec.structs.asdict(record), "state": regarded.state, "changes": regarded.changes}))
    else:
        typer.echo("\n".join([described(record), *regard.described(regarded)]))


@app.command()
def limit(
    principal: PrincipalId,
    measure: Annotated[str, typer.Option(help="requests, tokens, concurrency or cost (in cost units).")],
    per: Annotated[str | None, typer.Option(help="minute or day (requests, tokens), month (cost).")] = None,
    model: Annotated[str | None, typer.Option(help="Of this model alone; without it, of all together.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many.")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take such a limit away again.")] = False,
    as_json: AsJson = False,
) -> None:
    """Give a principal a limit of its own, in place of its plan's or beside it; --remove takes it away again."""
    if (limit is None) != remove:
        fail("Say either --limit N or --remove.", BAD_USAGE)
    settings = read_settings()
    override = Override(measure, 1 if limit is None else limit, per, model)
    change = remove_limit if remove else set_limit
    changed = run(
        settings,
        told(settings, lambda database, redis: change(database, redis, settings.partitions, principal, override)),
    )
    if changed is None:
        fail(f"There is no principal {principal!r}.")
    if not changed.found:
        fail(f"The principal {principal!r} has no such limit of its own: see `catflap principal show`.")
    if not changed.told:
        warn_untold(settings, "The limit is set" if not remove else "The limit is removed")
    record = msgspec.structs.asdict(changed.record)
    typer.echo(to_json({**record, "told": changed.told}) if as_json else described(changed.record))


def told(
    settings: Settings, change: Callable[[Database, Redis], Awaitable[Changed | None]]
) -> Callable[[Database], Awaitable[Changed | None]]:
    """`change` with a connection to Redis."""

    async def work(database: Database) -> Changed | None:
        async with telling(settings) as redis:
            return await change(database, redis)

    return work


def described(record: PrincipalRecord) -> str:
    """A principal as lines for a person."""
    lines = {
        "id": record.id,
        "name": record.name,
        "kind": record.kind,
        "organisation": f"{record.organisation_name} ({record.organisation})",
        "project": f"{record.project_name} ({record.project})",
        "created": moment(record.created_at_ms),
    }
    told = [f"{name:<13} {value}" for name, value in lines.items()]
    for limit in record.limits:
        unit = f"{limit.measure} per {limit.per}" if limit.per else limit.measure
        told.append(f"{'limit':<13} {limit.limit} {unit}" + (f" of {limit.model}" if limit.model else ""))
    return "\n".join(told)
