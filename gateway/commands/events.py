"""`catflap events`: the raw events out of the ledger and into it, their schema, and their end."""

import json
import os
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import IO, Annotated

import msgspec
import typer

from gateway.commands.console import BAD_USAGE, FAILED, fail, read_settings, warn
from gateway.commands.directory import run
from gateway.commands.times import instant_ms, shown
from gateway.core.event import RequestEvent, event_schema
from gateway.storage import events
from gateway.storage.database import Database
from gateway.storage.names import ids_of
from gateway.storage.rows import event_of
from gateway.telemetry import clock
from gateway.workers.entries import MAX_BODY
from gateway.workers.imports import BadLine, Imported, import_events

LEAST_AGE_MS = 24 * 3_600_000  # what is younger may still be on its way to the ledger
FOREVER_MS = 2**62

app = typer.Typer(help="Raw events: export, import, prune; their schema.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@app.command()
def export(
    since: Annotated[str | None, typer.Option(help="From this instant: 2026-11-01, 2026-11-01T10:00 or 7d.")] = None,
    until: Annotated[str | None, typer.Option(help="Up to, and without, this instant.")] = None,
    org: Annotated[str | None, typer.Option(metavar="NAME|ID", help="Only this organisation's.")] = None,
) -> None:
    """Print events as JSON lines, oldest first. No prompt, completion or secret is in them."""
    now_ms = clock.now_ms()
    since_ms = 0 if since is None else instant_ms(since, "--since", now_ms)
    until_ms = FOREVER_MS if until is None else instant_ms(until, "--until", now_ms)
    run(read_settings(), lambda database: write_events(database, since_ms, until_ms, org, sys.stdout.buffer))


async def write_events(
    database: Database, since_ms: int, until_ms: int, organisation: str | None, out: IO[bytes]
) -> None:
    organisations = None
    if organisation is not None:
        async with database.read() as connection:
            organisations = await ids_of(connection, "organisation", organisation)
    try:
        async for rows in events.pages(database, since_ms=since_ms, until_ms=until_ms, organisations=organisations):
            out.writelines(line_of(event_of(row)) for row in rows)
        out.flush()
    except BrokenPipeError:  # its reader has enough; Python would complain once more at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())


def line_of(event: RequestEvent) -> bytes:
    """One line of JSON that says its version even where a field's default need not be said."""
    return msgspec.json.encode({"v": event.v, **msgspec.to_builtins(event)}) + b"\n"


@app.command("import")
def import_(
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="JSON lines, as `export` prints them; -: stdin.")],
    as_json: AsJson = False,
) -> None:
    """Book events from a file. What is there already counts once, so a file may be imported again."""
    settings = read_settings()
    try:
        with nullcontext(sys.stdin.buffer) if file == "-" else Path(file).open("rb") as opened:
            lines = iter(partial(opened.readline, MAX_BODY + 1), b"")  # no line, however long, fills the memory
            done = run(settings, lambda database: import_events(database, lines))
    except BadLine as bad:
        warn(f"{bad}. The lines before it are imported: mend it and import the file again, nothing counts twice.")
        report(bad.before, as_json)
        raise typer.Exit(FAILED) from None
    except OSError as problem:
        fail(f"The file {file} cannot be read: {problem.strerror}.", BAD_USAGE)
    report(done, as_json)


def report(done: Imported, as_json: bool) -> None:
    if as_json:
        typer.echo(msgspec.json.encode(done).decode())
        return
    typer.echo(f"{done.booked} booked, {done.known} there already")
    if done.pruned:
        warn(f"{done.pruned} are older than what was pruned here, may have been counted before, and are left out.")


@app.command()
def prune(
    before: Annotated[str, typer.Option(help="Events that arrived before: 2026-11-01, or 90d (so long ago).")],
    as_json: AsJson = False,
) -> None:
    """Throw away old raw events. Roll-ups, and so `catflap usage` and budgets, stay as they are."""
    now_ms = clock.now_ms()
    before_ms = instant_ms(before, "--before", now_ms)
    if before_ms > now_ms - LEAST_AGE_MS:
        fail(
            "Events of the last 24 hours are kept: some may still be on their way. Give an earlier --before.", BAD_USAGE
        )
    pruned = run(read_settings(), lambda database: events.prune(database, before_ms, now_ms))
    if as_json:
        typer.echo(msgspec.json.encode({"pruned": pruned, "before_ms": before_ms}).decode())
    else:
        typer.echo(f"{pruned} events from before {shown(before_ms, '%Y-%m-%d %H:%M')} UTC pruned")


@app.command()
def schema() -> None:
    """Print the JSON Schema of an event."""
    typer.echo(json.dumps(event_schema(), indent=2))
