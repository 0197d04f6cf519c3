"""`catflap policy list` and `diff`: what is in force, and what would change."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from gateway.commands.console import BAD_USAGE, fail, read_settings, warn
from gateway.commands.directory import moment, run, to_json
from gateway.commands.times import instant_ms
from gateway.core.record import Record
from gateway.policy import diff as meaning
from gateway.policy.diff import Diff, Touched
from gateway.policy.problem import PolicyError
from gateway.policy.record import decode
from gateway.policy.ruleset import Ruleset, no_rules
from gateway.rules.directory import FOLDER, read_directory
from gateway.rules.load import load, load_examined
from gateway.rules.revisions import current
from gateway.rules.standing import Standing, standing
from gateway.storage.database import Database
from gateway.storage.events import pages
from gateway.storage.policies import Revision, files_of, revisions
from gateway.storage.usage import Row
from gateway.telemetry import clock

SAMPLES = 5

Folder = Annotated[
    Path | None,
    typer.Argument(
        metavar="DIR", help="A directory with `rules/` in it. Default: CATFLAP_POLICIES.", show_default=False
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def wanted(folder: Path | None) -> Path:
    """The directory that a command is about."""
    return read_settings().policies if folder is None else folder


def list_(
    with_revisions: Annotated[
        bool, typer.Option("--revisions", help="The history too, the last change first.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the rules in force, where they are from, whether containment is on, and whether the directory loads."""
    settings = read_settings()

    async def look(database: Database) -> tuple[Standing, list[Revision]]:
        found = await standing(database, settings.policies)
        async with database.read() as connection:
            return found, await revisions(connection) if with_revisions else []

    found, history = run(settings, look)
    if as_json:
        told = {**found.told(), **({"revisions": history} if with_revisions else {})}
        typer.echo(to_json(told))
        return
    typer.echo("\n".join([*_described(found), *(_line_of(revision) for revision in history)]))


def _described(found: Standing) -> list[str]:
    told = found.told()
    lines = [
        f"source        {told['source']}",
        f"version       {told['version'] or 'unknown'}",
        f"containment   {'on' if told['containment'] else 'OFF'}",
        f"directory     {found.folder / FOLDER}: {found.problem or 'loads'}",
        "",
    ]
    rows = [("RULE", "MODE", "PRIORITY", "COVERT")]
    rows += [(rule.id, rule.mode, str(rule.priority), "covert" if rule.covert else "") for rule in found.rules]
    widths = [max(len(row[at]) for row in rows) for at in range(4)]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [*lines, ""]


def _line_of(revision: Revision) -> str:
    back = "" if revision.restores is None else f" to {revision.restores}"
    what = revision.version or "directory"
    switched = "" if revision.containment else "  containment off"
    said = f"  {revision.message}" if revision.message else ""
    done = f"{revision.kind}{back}"
    return f"{revision.number:>4}  {moment(revision.at_ms)}  {done}  {what}{switched}  {revision.author}{said}"


def diff(
    folder: Folder = None,
    against: Annotated[str, typer.Option(metavar="REVISION|current", help="What it is held against.")] = "current",
    last: Annotated[
        str | None, typer.Option(help="Also whom it would touch, over what was recorded: 90m, 24h, 7d.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what the policies of a directory change in meaning, held against what is in force or against a revision."""
    if against != "current" and not (against.isascii() and against.isdigit() and len(against) < 10):
        fail("--against takes the number of a revision, or `current`.", BAD_USAGE)
    settings = read_settings()
    since_ms = None if last is None else instant_ms(last, "--last", clock.now_ms())
    try:
        new = load_examined(read_directory(wanted(folder)))
    except PolicyError as problem:
        fail(f"{problem} Nothing is compared.")

    async def compare(database: Database) -> tuple[Diff, int]:
        old = await _against(database, against, settings.policies)
        return await _compared(database, old, new, since_ms)

    found, unrecorded = run(settings, compare)
    if as_json:
        altered = [
            {"id": each.id, "parts": [dict(zip(("part", "was", "is"), part, strict=True)) for part in each.parts]}
            for each in found.altered
        ]
        typer.echo(to_json({**found._asdict(), "altered": altered, "unrecorded": unrecorded}))
        return
    typer.echo("\n".join(_differences(found, unrecorded, over=last)))


async def _against(database: Database, against: str, policies: Path) -> Ruleset:
    async with database.read() as connection:
        known = await revisions(connection)
        number = current(known).number if against == "current" else int(against)
        chosen = [revision for revision in (*known, current([])) if revision.number == number]
        if not chosen:
            fail(f"There is no revision {number}: see `catflap policy list --revisions`.")
        version = chosen[0].version
        files = None if version is None else await files_of(connection, version)
    try:
        if files is None and version is not None:
            fail(f"The files of revision {number} are not kept any more.")
        return load(read_directory(policies) if files is None else files)
    except PolicyError as problem:
        warn(f"What it is held against cannot be used: {problem} So all rules are told as new.")
        return no_rules()


async def _compared(database: Database, old: Ruleset, new: Ruleset, since_ms: int | None) -> tuple[Diff, int]:
    """The difference, and how many requests have no record to hold it against."""
    told = meaning.diff(old, new)
    touched: dict[str, Touched] = {}
    requests = unrecorded = 0
    if since_ms is not None:
        async for rows in pages(database, since_ms=since_ms, until_ms=clock.now_ms() + 1):
            records = [record for row in rows if (record := _record(row)) is not None]
            requests += len(records)
            unrecorded += len(rows) - len(records)
            for more in meaning.diff(old, new, records).touched:
                entry = touched.setdefault(more.id, Touched(more.id))
                entry.gained |= more.gained
                entry.lost |= more.lost
                entry.unknown += more.unknown
    return told._replace(touched=tuple(touched[name] for name in sorted(touched)), requests=requests), unrecorded


def _record(row: Row) -> Record | None:
    try:
        return decode(row["record"]) if row["record"] else None
    except msgspec.DecodeError:
        return None


def _differences(found: Diff, unrecorded: int, *, over: str | None) -> list[str]:
    lines = [f"+ {name}" for name in found.added] + [f"- {name}" for name in found.removed]
    for each in found.altered:
        lines += [f"~ {each.id}: {part}: {was}  ->  {now}" for part, was, now in each.parts]
    lines = lines or ["No rule differs in meaning."]
    if over is None:
        return lines
    lines += ["", f"Over {found.requests:,} recorded requests of the last {over} ({unrecorded:,} without a record):"]
    for touched in found.touched:
        lines += [f"{touched.id}: {_whom(touched)}"]
    return lines if found.touched else [*lines, "nobody is touched otherwise."]


def _whom(touched: Touched) -> str:
    parts = []
    for word, who in (("comes under it", touched.gained), ("leaves it", touched.lost)):
        if who:
            named = ", ".join(sorted(who)[:SAMPLES]) + (", ..." if len(who) > SAMPLES else "")
            parts.append(f"{len(who):,} {word} ({named})")
    if touched.unknown:
        parts.append(f"{touched.unknown:,} requests cannot be decided: their words are not kept")
    return "; ".join(parts)
