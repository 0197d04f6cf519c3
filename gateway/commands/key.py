"""`catflap key`: API keys, by hand."""

import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from gateway.commands.console import BAD_USAGE, fail, read_settings, warn
from gateway.commands.directory import moment, run, telling, to_json, warn_untold
from gateway.commands.times import span_ms
from gateway.core.caller import SCOPES
from gateway.identity.bounds import check_bounds
from gateway.identity.issue import (
    IssuedKey,
    KeyRecord,
    Revoked,
    Rotated,
    count_peppers,
    issue_key,
    list_keys,
    living,
    plan_names,
    revoke_key,
    rotate_key,
    show_key,
)
from gateway.identity.keys import parse_token
from gateway.storage.database import Database

app = typer.Typer(help="API keys: create, list, show, rotate, revoke.", no_args_is_help=True)

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
    scope: Annotated[list[str] | None, typer.Option(help=f"Only for this endpoint: {', '.join(SCOPES)}.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Only for this model.")] = None,
    allow_address: Annotated[list[str] | None, typer.Option(help="Only from this address or network (CIDR).")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="What the key is for.")] = None,
    as_json: AsJson = False,
) -> None:
    """Issue a key. Its token is shown this once. --scope, --model, --allow-address and --tag may be given often."""
    settings = read_settings()
    check_plan(settings.policies / "plans", plan)
    expires_at_ms = None if expires_in is None else int(time.time() * 1000) + span_ms(expires_in, "--expires-in")
    pepper = settings.pepper_bytes()

    async def issue(database: Database) -> IssuedKey:
        return await issue_key(
            database,
            pepper,
            organisation=org,
            project=project,
            principal=principal,
            plan=plan,
            name=name,
            expires_at_ms=expires_at_ms,
            bounds=check_bounds(
                scopes=scope or None, models=model or None, addresses=allow_address or None, tags=tag or None
            ),
        )

    print_issued(run(settings, issue), {}, as_json=as_json)


@app.command("list")
def list_(
    org: Annotated[str | None, typer.Option(help="Only this organisation's: its name or its id.")] = None,
    as_json: AsJson = False,
) -> None:
    """List keys, oldest first, one a line."""
    records = run(read_settings(), lambda database: list_keys(database, org))
    if as_json:
        typer.echo(to_json(records))
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
def rotate(
    key_id: KeyId,
    overlap: Annotated[str, typer.Option(help="How long the secret that it has lives on: 0s, 90m, 24h, 7d.")] = "24h",
    as_json: AsJson = False,
) -> None:
    """Give a key a new secret, shown this once; the one that it has lives on for the overlap.

    Two live at most: rotated again within an overlap, the older one ends at once.
    """
    no_token(key_id)
    settings = read_settings()
    overlap_ms, pepper = span_ms(overlap, "--overlap", least=0), settings.pepper_bytes()

    async def rotate(database: Database) -> Rotated | KeyRecord | None:
        async with telling(settings) as redis:
            return await rotate_key(database, redis, settings.partitions, pepper, key_id, overlap_ms)

    rotated = run(settings, rotate)
    if rotated is None:
        fail(f"There is no key {key_id!r}.")
    if isinstance(rotated, KeyRecord):
        fail(f"The key {key_id!r} is {state(rotated)} and stays so: create another one.")
    if rotated.ended_early:
        warn("The key was rotated before and that overlap was still on: the older secret has ended now.")
    if not rotated.told:
        warn_untold(settings, "The key is rotated")
    print_issued(rotated, {"told": rotated.told, "ended_early": rotated.ended_early}, as_json=as_json)


@app.command()
def revoke(key_id: KeyId, as_json: AsJson = False) -> None:
    """Revoke a key with all of its secrets: it stops at its next request, on every gateway."""
    no_token(key_id)
    settings = read_settings()

    async def revoke(database: Database) -> Revoked | None:
        async with telling(settings) as redis:
            return await revoke_key(database, redis, settings.partitions, key_id)

    revoked = run(settings, revoke)
    if revoked is None:
        fail(f"There is no key {key_id!r}.")
    if not revoked.told:
        warn_untold(settings, "The key is revoked")
    if as_json:
        typer.echo(to_json({**msgspec.structs.asdict(revoked.record), "told": revoked.told}))
    else:
        typer.echo(described(revoked.record))


@app.command()
def peppers(as_json: AsJson = False) -> None:
    """Count the living secrets: under CATFLAP_PEPPER, under CATFLAP_PEPPER_OLD, and others, which are under neither, or
    from before that was written down (a key's first use does it)."""
    settings = read_settings()
    current, old = settings.pepper_bytes(), settings.old_pepper_bytes()
    counts = run(settings, lambda database: count_peppers(database, [current, old or b""]))
    told = dict(zip(("current", "old", "other"), counts, strict=True))
    typer.echo(to_json(told) if as_json else "\n".join(f"{name:<13} {count}" for name, count in told.items()))


def print_issued(issued: IssuedKey, more: dict[str, object], *, as_json: bool) -> None:
    """The key, its token with it, this once."""
    if as_json:
        told = {"id": issued.record.id, "key": issued.token, **msgspec.structs.asdict(issued.record), **more}
        typer.echo(to_json(told))
        return
    typer.echo(described(issued.record))
    typer.echo(f"key           {issued.token}")
    warn("This is the only time that the key is shown.")


def check_plan(folder: Path, plan: str) -> None:
    """The plan is a file there; else one sentence that names those that are."""
    plans = plan_names(folder)
    if plan not in plans:
        fail(f"There is no plan {plan!r} in {folder}: it has {', '.join(plans) or 'none'}.")


def no_token(key_id: str) -> None:
    """Somebody who passes the key itself is told so, without it being repeated in a message."""
    if parse_token(key_id) is not None:
        fail("That is the key itself; this command takes its id, `key_` and the 17 characters after `cf-`.", BAD_USAGE)


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
        "rotated": moment(record.rotated_at_ms),
        "old until": moment(record.old_until_ms),
        "revoked": moment(record.revoked_at_ms),
        **{field: ", ".join(getattr(record, field) or ()) for field in ("scopes", "models", "addresses", "tags")},
    }
    return "\n".join(f"{name:<13} {value}" for name, value in lines.items() if value)


def state(record: KeyRecord) -> str:
    """`revoked`, `expired` or `active`."""
    if record.revoked_at_ms is not None:
        return "revoked"
    return "active" if living(record, int(time.time() * 1000)) else "expired"
