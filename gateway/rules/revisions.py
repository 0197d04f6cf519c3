"""Changes of what is in force: apply, rollback, and the one switch. Each appends a revision and tells the gateways.

The command line and the admin API call the same functions.
"""

import asyncio
from collections.abc import Callable, Sequence

import msgspec
from redis.asyncio import Redis

from gateway.policy.check import Finding
from gateway.rules.channel import tell
from gateway.rules.load import examine, load
from gateway.storage import policies
from gateway.storage.database import Database
from gateway.storage.policies import Files, Revision
from gateway.telemetry import clock

MAX_AUTHOR, MAX_MESSAGE, MAX_SOURCE = 128, 256, 256


class BadChange(Exception):
    """It cannot be done; the message is a sentence."""


class BadText(BadChange):
    """An author or a message that cannot be kept."""


class Refused(Exception):
    """The policies have errors."""

    def __init__(self, findings: tuple[Finding, ...]) -> None:
        super().__init__("The policies have errors and are not applied.")
        self.findings = findings


class Change(msgspec.Struct, frozen=True):
    """`revision`: the one in force now. `changed`: whether this made it. `told`: whether the gateways were told at
    once; else they see it at their next look into the database. `warnings`: what was found in the policies."""

    revision: Revision
    changed: bool
    told: bool
    warnings: tuple[Finding, ...] = ()


Next = Callable[[Sequence[Revision]], Revision | None]
"""From all revisions, the last first, the one to append; None: nothing changes."""

BEFORE_ANY = Revision(
    number=0, version=None, containment=True, kind="start", author="", message="the directory of policies", at_ms=0
)
"""What is in force where no revision was ever written."""


async def apply(
    database: Database, redis: Redis, files: Files, *, author: str, message: str, source: str | None = None
) -> Change:
    """Put these files in force, if nothing is wrong with them. Raises Refused, BadChange, SQLAlchemyError."""
    author, message = _line(author, "author", MAX_AUTHOR), _line(message, "message", MAX_MESSAGE)
    now_ms = clock.now_ms()
    examined = await asyncio.to_thread(examine, files, now_ms // 1000)
    if examined.ruleset is None:
        raise Refused(examined.findings)
    version = examined.ruleset.version
    said = None if source is None else source[:MAX_SOURCE]

    def following(known: Sequence[Revision]) -> Revision | None:
        last = current(known)
        if last.version == version:
            return None
        return _after(last, kind="apply", version=version, author=author, message=message, source=said)

    return await _change(database, redis, following, archived=(version, files), warnings=examined.findings)


async def rollback(database: Database, redis: Redis, to: int | None, *, author: str, message: str = "") -> Change:
    """Go back to what the revision `to` had in force; 0: the directory; None: what was applied before what is in force
    now, further back each time. It must still load; its examples are not run. Raises BadChange, SQLAlchemyError."""
    author, message = _line(author, "author", MAX_AUTHOR), _line(message, "message", MAX_MESSAGE, needed=False)
    async with database.read() as connection:
        target = _target(await policies.revisions(connection), to)
        files = None if target.version is None else await policies.files_of(connection, target.version)
    await _must_load(target, files)

    def following(known: Sequence[Revision]) -> Revision | None:
        last, again = current(known), _target(known, to)
        if again.number != target.number:
            raise BadChange("Somebody else has changed the policies meanwhile. Look at them and try again.")
        if last.version == target.version:
            return None
        more = {"source": target.source, "restores": target.number}
        return _after(last, kind="rollback", version=target.version, author=author, message=message, **more)

    return await _change(database, redis, following)


async def switch(database: Database, redis: Redis, containment: bool, *, author: str, message: str = "") -> Change:
    """Turn all containment on or off; rulesets stay as they are. Raises BadChange, SQLAlchemyError."""
    author, message = _line(author, "author", MAX_AUTHOR), _line(message, "message", MAX_MESSAGE, needed=False)

    def following(known: Sequence[Revision]) -> Revision | None:
        last = current(known)
        if last.containment is containment:
            return None
        kind = "on" if containment else "off"
        more = {"containment": containment, "source": last.source}
        return _after(last, kind=kind, version=last.version, author=author, message=message, **more)

    return await _change(database, redis, following)


def current(known: Sequence[Revision]) -> Revision:
    """The revision in force."""
    return known[0] if known else BEFORE_ANY


async def _change(
    database: Database,
    redis: Redis,
    following: Next,
    *,
    archived: tuple[str, Files] | None = None,
    warnings: tuple[Finding, ...] = (),
) -> Change:
    """Append what follows. The gateways are told even where nothing changes: run again, a command tells them again."""
    async with policies.one_writer(database) as connection:
        known = await policies.revisions(connection)
        made = following(known)
        if made is not None:
            if archived is not None:
                await policies.archive(connection, *archived, made.at_ms)
            await policies.append(connection, made)
    now = made or current(known)
    return Change(now, made is not None, await tell(redis, now.number), warnings)


def _after(last: Revision, **changed: object) -> Revision:
    """The next revision: what is not said is carried forward, the switch above all."""
    fresh = {"number": last.number + 1, "restores": None, "at_ms": clock.now_ms()}
    return msgspec.structs.replace(last, **{**fresh, **changed})


def _target(known: Sequence[Revision], to: int | None) -> Revision:
    """The revision to go back to. Raises BadChange."""
    by_number = {revision.number: revision for revision in (*known, BEFORE_ANY)}
    if to is not None:
        if to not in by_number:
            raise BadChange(f"There is no revision {to}: see `catflap policy list --revisions`.")
        return by_number[to]
    last = current(known)
    origin = _origin(by_number, last)
    for number in range(origin.number - 1, 0, -1):
        revision = by_number.get(number)
        if revision is not None and revision.kind == "apply" and revision.version != last.version:
            return revision
    if last.version is None:
        raise BadChange("The directory of policies is in force: there is nothing before it. Say --to N.")
    return BEFORE_ANY


def _origin(by_number: dict[int, Revision], revision: Revision) -> Revision:
    """Where what is in force was applied: behind rollbacks and the switch."""
    while revision.number and revision.kind != "apply":
        back = revision.restores if revision.kind == "rollback" else revision.number - 1
        revision = by_number.get(back or 0, BEFORE_ANY)
    return revision


async def _must_load(target: Revision, files: Files | None) -> None:
    if target.version is None:
        return
    if files is None:
        raise BadChange(f"The files of revision {target.number} are not kept any more: say another one with --to.")
    await asyncio.to_thread(load, files)


def _line(text: str, what: str, most: int, *, needed: bool = True) -> str:
    """One line of text. Raises BadText."""
    text = text.strip()
    if needed and not text:
        raise BadText(f"A change needs {'an' if what == 'author' else 'a'} {what}: say --{what}.")
    if len(text) > most or not text.isprintable():
        raise BadText(f"The {what} must be one line of at most {most} characters.")
    return text
