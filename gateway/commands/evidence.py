"""`catflap evidence`: what contained principals asked and got, and who has read it."""

import getpass
from typing import Annotated

import msgspec
import typer

from gateway.commands.console import BAD_USAGE, fail, read_settings
from gateway.commands.directory import moment, run, to_json
from gateway.commands.times import instant_ms
from gateway.evidence.content import Text
from gateway.evidence.read import BadReading, Opened, read_evidence
from gateway.evidence.seal import Seal, Unreadable
from gateway.settings import Settings
from gateway.storage import evidence
from gateway.storage.database import Database
from gateway.storage.evidence import Listed, Reading
from gateway.telemetry import clock

MOST = 1000

app = typer.Typer(help="Evidence of contained requests: list, show, readings.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Principal = Annotated[str | None, typer.Option(help="Only this principal's: prin_…", metavar="PRINCIPAL")]


@app.command("list")
def list_(
    principal: Principal = None,
    since: Annotated[str, typer.Option(help="From this instant: 2026-11-01, 2026-11-01T10:00 or 7d.")] = "24h",
    as_json: AsJson = False,
) -> None:
    """List what is kept, newest first, one a line (1,000 at most), without content."""
    now_ms = clock.now_ms()
    since_ms = instant_ms(since, "--since", now_ms)

    async def read(database: Database) -> list[Listed]:
        async with database.read() as connection:
            return await evidence.listed(connection, now_ms=now_ms, since_ms=since_ms, principal=principal, most=MOST)

    rows = run(read_settings(), read)
    if as_json:
        typer.echo(to_json(rows))
        return
    for row in rows:
        typer.echo(
            f"{row.request}  {moment(row.at_ms)}  {row.principal}  {row.bytes} bytes  until {moment(row.expires_at_ms)}"
        )


@app.command()
def show(
    request: Annotated[str, typer.Argument(help="The request's id: req_…", metavar="REQUEST")],
    reason: Annotated[str, typer.Option(help="Why it is read. It is written down.")],
    reader: Annotated[str | None, typer.Option(help="Who reads it. Default: this system's user.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what was asked, what was sent in its place, and the answers. That it was read is written down first."""
    settings = read_settings()
    seal, name = seal_of(settings), this_user() if reader is None else reader
    try:
        opened = run(settings, lambda database: read_evidence(database, seal, request, reader=name, reason=reason))
    except BadReading as problem:
        fail(f"That cannot be written down: {problem}.", BAD_USAGE)
    except Unreadable as problem:
        fail(f"The evidence of {request!r} cannot be shown. {problem}")
    if opened is None:
        fail(f"There is no evidence of a request {request!r}, or none any more: see `catflap evidence list`.")
    typer.echo(to_json(opened) if as_json else described(opened))


@app.command()
def readings(principal: Principal = None, as_json: AsJson = False) -> None:
    """List who has read which evidence, when and why, newest first (1,000 at most)."""

    async def read(database: Database) -> list[Reading]:
        async with database.read() as connection:
            return await evidence.readings(connection, principal=principal, most=MOST)

    rows = run(read_settings(), read)
    if as_json:
        typer.echo(to_json(rows))
        return
    for row in rows:
        typer.echo(f"{moment(row.at_ms)}  {row.request}  {row.principal}  {plain(row.reader)}  {plain(row.reason)}")


def seal_of(settings: Settings) -> Seal:
    """The seal; a data directory that is no use ends the command."""
    try:
        return Seal(settings.evidence_secrets())
    except OSError as problem:
        fail(f"The data directory {settings.data_dir} cannot be used ({problem.strerror}): set CATFLAP_DATA_DIR.")


def this_user() -> str:
    """Who runs the command, as the system knows it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        fail("The system does not say who you are: give --reader NAME.", BAD_USAGE)


def described(opened: Opened) -> str:
    """Evidence as lines for a person."""
    content = opened.content
    told = [
        f"request       {opened.request}",
        f"principal     {opened.principal} of {opened.organisation}",
        f"at            {moment(opened.at_ms)}",
        f"kept until    {moment(opened.expires_at_ms)}",
        *section("asked", content.asked, "bytes"),
        *section("sent in its place", content.sent, "bytes"),
    ]
    for number, answer in enumerate(content.answers, 1):
        told += section(f"answer {number}", answer, "characters")
    if content.answers_left_out:
        told.append(f"({content.answers_left_out} more answers were not kept)")
    return "\n".join(told)


def section(title: str, text: Text, unit: str) -> list[str]:
    """A heading, the text, and what is missing of it."""
    missing = [f"({text.left_out} {unit} more were not kept)"] if text.left_out else []
    return ["", f"--- {title}", pretty(text.text), *missing]


def pretty(text: str) -> str:
    """JSON over several lines; anything else as it is."""
    try:
        return plain(msgspec.json.format(text, indent=2))
    except (msgspec.MsgspecError, RecursionError):
        return plain(text)


def plain(text: str) -> str:
    """The text without what a terminal would obey: a suspect wrote it."""
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else letter.encode("unicode_escape").decode()
        for letter in text
    )
