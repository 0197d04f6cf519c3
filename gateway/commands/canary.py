"""`catflap canary`: the phrases of contained principals, and whose is in a text."""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from gateway.canary.phrase import phrase_of
from gateway.canary.search import MAX_TEXT
from gateway.canary.words import PLACES
from gateway.commands.console import BAD_USAGE, FAILED, fail, read_settings
from gateway.commands.directory import moment, run, to_json
from gateway.commands.evidence import plain
from gateway.evidence.trace import BadText, Found, checked
from gateway.evidence.trace import trace as traced
from gateway.storage import canaries
from gateway.storage.canaries import Given
from gateway.storage.database import Database

MOST_BYTES = 4 * MAX_TEXT

app = typer.Typer(help="Canaries: trace, list.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@app.command()
def trace(
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="The text, UTF-8; -: stdin.")],
    as_json: AsJson = False,
) -> None:
    """Whose answer is this text from? Exit 1 when it holds nobody's phrase."""
    try:
        text = checked(text_of(file))
    except BadText as problem:
        fail(f"This cannot be searched: {problem}.", BAD_USAGE)
    found = run(read_settings(), lambda database: traced(database, text))
    if as_json:
        typer.echo(to_json(found))
    elif found:
        typer.echo("\n\n".join(map(described, found)))
    else:
        typer.echo("The text holds the phrase of nobody who was ever given one.")
    if not found:
        raise typer.Exit(FAILED)


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the phrases that principals were given, one a line."""

    async def read(database: Database) -> list[Given]:
        async with database.read() as connection:
            return [given async for given in canaries.every(connection)]

    rows = run(read_settings(), read)
    if as_json:
        typer.echo(to_json([{**given._asdict(), "phrase": phrase(given)} for given in rows]))
        return
    for given in rows:
        typer.echo(f"{given.principal}  {moment(given.first_at_ms)}  {moment(given.last_at_ms)}  {phrase(given)}")


def phrase(given: Given) -> str:
    """As it stands in a prompt; of another version of Catflap, the words alone."""
    return phrase_of(given.words) if len(given.words) == len(PLACES) else " ".join(given.words)


def text_of(file: str) -> str:
    """What is in the file, or a little more than can be searched of it."""
    try:
        with nullcontext(sys.stdin.buffer) if file == "-" else Path(file).open("rb") as opened:
            data = opened.read(MOST_BYTES + 1)
    except OSError as problem:
        fail(f"The file {file} cannot be read: {problem.strerror}.", BAD_USAGE)
    if len(data) > MOST_BYTES:
        raise BadText(f"it has more than {MOST_BYTES:,} bytes: give it in parts that overlap")
    return data.decode(errors="replace")


def described(found: Found) -> str:
    """A find as lines for a person."""
    known = f"{found.organisation}/{found.project}/{found.name}" if found.name else "the directory knows it no more"
    lines = [
        f"principal     {found.principal} ({plain(known)})",
        f"how sure      {found.sureness}: {percent(found.sure)}; {found.changed:.0%} of its letters differ",
        f"where         character {found.at}: {plain(found.excerpt)!r}",
        f"phrase given  from {moment(found.first_at_ms)} to {moment(found.last_at_ms)}",
    ]
    for one in found.requests:
        said = ", said its phrase" if one.canary_said else ""
        lines.append(f"contained     {one.request}  {moment(one.at_ms)}  {one.endpoint} of {one.model}{said}")
    return "\n".join(lines)


def percent(share: float) -> str:
    """Never a whole 100%."""
    return "over 99.99%" if share > 0.9999 else f"{int(share * 10_000) / 100:.2f}%"
