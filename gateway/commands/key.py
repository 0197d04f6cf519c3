"""`catflap key`: API keys, by hand."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
import typer
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from gateway.commands.console import BAD_USAGE, fail, read_settings, warn
from gateway.identity.issue import KeyRecord, Revoked, issue_key, list_keys, revoke_key, show_key
from gateway.identity.keys import parse_token
from gateway.identity.names import BadName
from gateway.quota.client import connect_redis
from gateway.settings import Settings
from gateway.storage.database import Database, connect
from gateway.storage.migrate import NotMigrated, require_head

Result = TypeVar("Result")

REDIS_TIMEOUT_S = 2.0
SPAN = re.compile(r"([1-9][0-9]{0,5})([smhdw])")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}

app = typer.Typer(help="API keys: create, list, show, revoke.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
KeyId = Annotated[str, typer.Argument(help="The key's id: key_…", metavar="KEY_ID")]


@app.command()
def create(
    org: Annotated[str, typer.Option(help="The organisation's name; made where there is none.")],
    project: Annotated[str, typer.Option(help="The project's name; made where there is none.")],
    plan: Annotated[str, typer.Option(help="The plan: a file in the policies' folder `plans`.")],
    principal: Annotated[
        str | None, typer.Option(help="Whose key this is; without it, a service principal of its own.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What the key is called in lists.")] = None,
    expires_in: Annotated[str | None, typer.Option(help="Its life: 90m, 12h, 30d, 8w. Without it: no end.")] = None,
    as_json: AsJson = False,
) -> None:
    """Issue a key. Its token is shown this once."""
    settings = read_settings()
    check_plan(settings.policies / "plans", plan)
    expires_at_ms = None if expires_in is None else int(time.time() * 1000) + span_ms(expires_in)
    pepper = settings.pepper_bytes()

    issued = run(
        settings,
        lambda database: issue_key(
            database,
            pepper,
            organisation=org,
            project=project,
            principal=principal,
            plan=plan,
            name=name,
            expires_at_ms=expires_at_ms,
        ),
    )
    if as_json:
        typer.echo(to_json({"id": issued.record.id, "key": issued.token, **msgspec.structs.asdict(issued.record)}))
        return
    typer.echo(described(issued.record))
    typer.echo(f"key           {issued.token}")
    warn("This is the only time that the key is shown.")


@app.command("list")
def list_(
    org: Annotated[str | None, typer.Option(help="Only this organisation's: its name or its id.")] = None,
    as_json: AsJson = False,
) -> None:
    """List keys, oldest first, one a line."""
    records = run(read_settings(), lambda database: list_keys(database, org))
    if as_json:
        typer.echo(msgspec.json.encode(records).decode())
        return
    for record in records:
        owner = f"{record.organisation_name}/{record.project_name}/{record.principal_name}"
        typer.echo(
            "  ".join([record.id, state(record).ljust(8), record.plan.ljust(10), owner, record.name or ""]).rstrip()
        )


@app.command()
def show(key_id: KeyId, as_json: AsJson = False) -> None:
    """Show a key, all but its token."""
    no_token(key_id)
    record = run(read_settings(), lambda database: show_key(database, key_id))
    if record is None:
        fail(f"There is no key {key_id!r}.")
    typer.echo(to_json(msgspec.structs.asdict(record)) if as_json else described(record))


@app.command()
def revoke(key_id: KeyId, as_json: AsJson = False) -> None:
    """Revoke a key: it stops at its next request, on every gateway."""
    no_token(key_id)
    settings = read_settings()
    revoked = run(settings, lambda database: revoke_and_tell(settings, database, key_id))
    if revoked is None:
        fail(f"There is no key {key_id!r}.")
    if not revoked.told:
        warn(
            "The key is revoked, but Redis could not be reached to tell the gateways: they may honour it for up to "
            f"{settings.directory_cache_s:g} seconds more. Run the command again to tell them."
        )
    if as_json:
        typer.echo(to_json({**msgspec.structs.asdict(revoked.record), "told": revoked.told}))
    else:
        typer.echo(described(revoked.record))


async def revoke_and_tell(settings: Settings, database: Database, key_id: str) -> Revoked | None:
    redis = connect_redis(settings.redis(), timeout_s=REDIS_TIMEOUT_S)
    try:
        return await revoke_key(database, redis, settings.partitions, key_id)
    finally:
        await redis.aclose()


def run(settings: Settings, work: Callable[[Database], Awaitable[Result]]) -> Result:
    """Do `work` on the settings' database; what can go wrong there ends the command with one sentence."""

    async def session() -> Result:
        database = connect(settings.database(), timeout_s=settings.database_timeout_s)
        try:
            await require_head(database)
            return await work(database)
        finally:
            await database.close()

    try:
        return asyncio.run(session())
    except NotMigrated:
        fail("The database is not at the schema of this version: run `catflap migrate`.")
    except BadName as error:
        fail(f"That cannot be a name: {error}.", BAD_USAGE)
    except ValueError as error:
        fail(f"CATFLAP_DATABASE_URL or CATFLAP_REDIS_URL is no use: {error}.", BAD_USAGE)
    except OperationalError as error:
        if "locked" in str(error.orig):
            fail("The database is locked by another process for longer than this command waits: try again.")
        fail("The database does not answer: see CATFLAP_DATABASE_URL.")
    except (SQLAlchemyError, OSError) as error:
        fail(f"The database cannot be used ({type(error).__name__}): see CATFLAP_DATABASE_URL.")


def check_plan(folder: Path, plan: str) -> None:
    """The plan is a file there; else one sentence that names those that are."""
    plans = sorted(file.stem for file in folder.glob("*.yaml"))
    if plan not in plans:
        fail(f"There is no plan {plan!r} in {folder}: it has {', '.join(plans) or 'none'}.")


def no_token(key_id: str) -> None:
    """Somebody who passes the key itself is told so, without it being repeated in a message."""
    if parse_token(key_id) is not None:
        fail("That is the key itself; this command takes its id, `key_` and the 17 characters after `cf-`.", BAD_USAGE)


def span_ms(text: str) -> int:
    """`30d` as milliseconds. Raises typer.BadParameter."""
    match = SPAN.fullmatch(text)
    if match is None:
        raise typer.BadParameter("a number and one of s, m, h, d, w: 30d, for example", param_hint="--expires-in")
    return int(match[1]) * SECONDS[match[2]] * 1000


def described(record: KeyRecord) -> str:
    """A key as lines for a person."""
    lines = {
        "id": record.id,
        "name": record.name or "",
        "organisation": f"{record.organisation_name} ({record.organisation})",
        "project": f"{record.project_name} ({record.project})",
        "principal": f"{record.principal_name} ({record.principal}, {record.principal_kind})",
        "plan": record.plan,
        "state": state(record),
        "created": moment(record.created_at_ms),
        "expires": moment(record.expires_at_ms),
        "revoked": moment(record.revoked_at_ms),
    }
    return "\n".join(f"{name:<13} {value}" for name, value in lines.items() if value)


def state(record: KeyRecord) -> str:
    """`revoked`, `expired` or `active`."""
    if record.revoked_at_ms is not None:
        return "revoked"
    expired = record.expires_at_ms is not None and record.expires_at_ms <= time.time() * 1000
    return "expired" if expired else "active"


def moment(milliseconds: int | None) -> str:
    if milliseconds is None:
        return ""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")


def to_json(values: dict[str, object]) -> str:
    return msgspec.json.encode(values).decode()
