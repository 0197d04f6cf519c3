"""`catflap policy`: policies as code. Nothing here decides anything: gateway/rules and gateway/policy do."""

import getpass
import os
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from redis.asyncio import Redis

from gateway.commands.console import BAD_USAGE, FAILED, fail, read_settings, warn
from gateway.commands.directory import run, telling, to_json
from gateway.commands.policy_traffic import explain, simulate
from gateway.commands.policy_views import Folder, diff, list_, wanted
from gateway.policy.check import Finding
from gateway.policy.problem import PolicyError
from gateway.rules.directory import FOLDER, read_directory
from gateway.rules.git import read_revision
from gateway.rules.inforce import POLL_S
from gateway.rules.load import Examined, examine, finding_of
from gateway.rules.revisions import BadChange, BadText, Change, Refused, apply, rollback, switch
from gateway.settings import Settings
from gateway.storage.database import Database
from gateway.storage.policies import Files
from gateway.telemetry import clock

app = typer.Typer(
    help="Policies as code: check, test, try on past traffic, apply, explain, take back.", no_args_is_help=True
)
app.command()(diff)
app.command("list")(list_)
app.command()(explain)
app.command()(simulate)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Author = Annotated[str | None, typer.Option(help="Who makes the change. Default: the user of this system.")]
Message = Annotated[str, typer.Option(help="Why, in a line.")]
AllContainment = Annotated[
    bool, typer.Option("--all-containment", help="Must be said: it is about every contained principal.")
]


@app.command()
def check(
    folder: Folder = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 on warnings too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say all that is wrong, or looks wrong, with the policies of a directory; their examples are run. Exit 1 on
    errors."""
    examined = examined_in(wanted(folder))
    report(examined, examined.findings, as_json)
    raise typer.Exit(FAILED if examined.errors or (strict and examined.findings) else 0)


@app.command()
def test(folder: Folder = None, as_json: AsJson = False) -> None:
    """Run the examples of a directory's policies. Exit 1 where one does not go as it says."""
    examined = examined_in(wanted(folder))
    report(examined, examined.errors, as_json)
    raise typer.Exit(FAILED if examined.errors else 0)


@app.command("apply")
def apply_(
    message: Message,
    folder: Folder = None,
    git: Annotated[str | None, typer.Option(metavar="REV", help="As committed in this git revision.")] = None,
    repo: Annotated[
        Path | None, typer.Option(help="The repository, and DIR is a path in it. Default: the one that DIR lies in.")
    ] = None,
    author: Author = None,
    as_json: AsJson = False,
) -> None:
    """Put the policies of a directory, or of a git revision, in force on every gateway; --message says why.

    They are checked and their examples run first; with an error nothing is applied.
    """
    if repo is not None and git is None:
        fail("--repo says where the revision of --git is: say that too.", BAD_USAGE)
    settings, place = read_settings(), wanted(folder)
    files, source = read_files(place, git, repo)
    who = author or this_user()
    change = changed(
        settings, lambda database, redis: apply(database, redis, files, author=who, message=message, source=source)
    )
    for finding in change.warnings:
        warn(str(finding))
    told(change, as_json)


@app.command("rollback")
def rollback_(
    to: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="The revision to go back to; 0: the directory of policies.")
    ] = None,
    message: Message = "",
    author: Author = None,
    as_json: AsJson = False,
) -> None:
    """Go back to what was applied before, or to revision N. This makes a new revision; said again, it goes further
    back."""
    who = author or this_user()
    told(
        changed(read_settings(), lambda database, redis: rollback(database, redis, to, author=who, message=message)),
        as_json,
    )


@app.command()
def off(
    all_containment: AllContainment = False, message: Message = "", author: Author = None, as_json: AsJson = False
) -> None:
    """End all containment at once, whatever the policies say. It stays off until `catflap policy on`."""
    turn(False, all_containment, message, author, as_json)


@app.command()
def on(
    all_containment: AllContainment = False, message: Message = "", author: Author = None, as_json: AsJson = False
) -> None:
    """Let the policies contain again."""
    turn(True, all_containment, message, author, as_json)


def turn(containment: bool, all_containment: bool, message: str, author: str | None, as_json: bool) -> None:
    if not all_containment:
        fail("Say --all-containment: this is one switch for all of it.", BAD_USAGE)
    who = author or this_user()
    told(
        changed(
            read_settings(), lambda database, redis: switch(database, redis, containment, author=who, message=message)
        ),
        as_json,
    )


def examined_in(place: Path) -> Examined:
    """What is found in a directory; that there is none is a finding too."""
    try:
        files = read_directory(place)
    except PolicyError as problem:
        return Examined((finding_of(problem),), None, (), 0)
    return examine(files, clock.now_ms() // 1000)


def report(examined: Examined, findings: Iterable[Finding], as_json: bool) -> None:
    """The findings, one a line, and how many policies and examples there were."""
    if as_json:
        typer.echo(
            to_json(
                {
                    "version": None if examined.ruleset is None else examined.ruleset.version,
                    "policies": len(examined.policies),
                    "examples": examined.examples,
                    "findings": [finding._asdict() for finding in findings],
                }
            )
        )
        return
    for finding in findings:
        typer.echo(str(finding))
    errors = len(examined.errors)
    warnings = len(examined.findings) - errors
    counts = f"{len(examined.policies)} policies, {examined.examples} examples run"
    typer.echo(
        f"{counts}: {errors or 'no'} error{'s' * (errors != 1)}, {warnings or 'no'} warning{'s' * (warnings != 1)}"
    )


def read_files(place: Path, git: str | None, repo: Path | None) -> tuple[Files, str]:
    """The files, and what to call the place that they are from."""
    try:
        if git is None:
            return read_directory(place), str(place / FOLDER)
        committed = read_revision(place, git, repo)
    except PolicyError as problem:
        fail(f"{problem}")
    return committed.files, f"git {committed.commit} {(place / FOLDER).as_posix()}"


def changed(settings: Settings, work: Callable[[Database, Redis], Awaitable[Change]]) -> Change:
    """Make a change; what stands against it ends the command with its sentences."""

    async def session(database: Database) -> Change:
        async with telling(settings) as redis:
            return await work(database, redis)

    try:
        return run(settings, session)
    except Refused as refused:
        for finding in refused.findings:
            warn(str(finding))
        fail(str(refused))
    except PolicyError as problem:
        fail(f"What was in force then cannot be used any more: {problem}")
    except BadText as bad:
        fail(str(bad), BAD_USAGE)
    except BadChange as bad:
        fail(str(bad))


def told(change: Change, as_json: bool) -> None:
    """What came of it."""
    revision = change.revision
    if not change.told:
        warn(
            "Redis could not be reached to tell the gateways: each of them that reaches the database sees by itself "
            f"what is in force, within {POLL_S:g} seconds."
        )
    if as_json:
        typer.echo(
            to_json({**msgspec.structs.asdict(change), "warnings": [each._asdict() for each in change.warnings]})
        )
        return
    what = "the directory of policies" if revision.version is None else f"ruleset {revision.version}"
    switched = "on" if revision.containment else "off"
    said = f"Revision {revision.number}" if change.changed else f"Nothing changed; revision {revision.number}"
    typer.echo(f"{said}: {what}, containment {switched}.")


def this_user() -> str:
    """The name of whoever runs the command."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return f"user {os.getuid()}"
