"""`catflap principal erase`."""

from typing import Annotated

import msgspec
import typer

from gateway.commands.console import BAD_USAGE, fail, read_settings, warn
from gateway.commands.directory import run, telling
from gateway.settings import Settings
from gateway.storage.database import Database
from gateway.storage.erasure import Erasure
from gateway.workers.erasure import erase_everywhere

REDIS_TIMEOUT_S = 5.0


def erase(
    principal: Annotated[str, typer.Argument(help="The principal's id: prin_…", metavar="PRINCIPAL")],
    yes: Annotated[bool, typer.Option("--yes", help="That it is meant: this cannot be undone.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Erase a principal's personal data: its row, its keys, its names and ids in all records. Sums stay."""
    if not yes:
        fail(
            "This cannot be undone: its keys stop, and its records lose its name. Say --yes if it is meant.", BAD_USAGE
        )
    settings = read_settings()
    done = run(settings, lambda database: erase_and_tell(settings, database, principal))
    if done is None:
        fail(f"There is no principal {principal!r}, and no record of one.")
    if not done.told:
        warn(
            "The database is done, but Redis could not be reached: gateways may honour its keys for up to "
            f"{settings.directory_cache_s:g} seconds more. Run the command again."
        )
    if as_json:
        typer.echo(msgspec.json.encode(done).decode())
    else:
        typer.echo(
            f"{done.principal} erased: {done.keys} keys, {done.events} events, {done.pending} still on their way"
        )


async def erase_and_tell(settings: Settings, database: Database, principal: str) -> Erasure | None:
    async with telling(settings, timeout_s=REDIS_TIMEOUT_S) as redis:
        return await erase_everywhere(database, redis, settings.partitions, principal)
