"""Recorded decisions: one explained under the rules that made it, many replayed under other rules.

Explaining takes the archived ruleset of that version, whatever is in force now. Errors are told as sentences, in
CannotTell.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from gateway.core.decision import Decision
from gateway.core.event import RequestEvent
from gateway.core.facts import Facts, Roll
from gateway.core.record import MAX_ANSWERS, Record
from gateway.policy.decide import Unrecorded
from gateway.policy.problem import PolicyError
from gateway.policy.record import Account, Opening, Stored, accounts, explain
from gateway.policy.ruleset import Ruleset, no_rules
from gateway.policy.simulate import Simulation, Simulator
from gateway.rules.directory import read_directory
from gateway.rules.load import load
from gateway.storage import events
from gateway.storage.database import Database
from gateway.storage.policies import files_of, last_revision
from gateway.storage.rows import event_of

VERSION = 1
AT_ONCE = 1000
"""Lines that are replayed together."""


class CannotTell(Exception):
    """Why there is no answer, as a sentence that says what to do."""


class Explained(msgspec.Struct, frozen=True):
    """A decision as it was made, rule by rule; `event`: what was then done. `decision`: None where it hangs on answers
    that its record had no room for."""

    event: RequestEvent
    decision: Decision | None
    rules: tuple[Account, ...]


async def explain_request(database: Database, request: str) -> Explained:
    """Raises CannotTell; sqlalchemy.exc.SQLAlchemyError."""
    row = await events.find(database, request)
    if row is None:
        raise CannotTell(
            f"There is no request {request!r} in the ledger: it may not be booked yet, may be pruned, or was refused "
            "before it was admitted."
        )
    try:
        event = event_of(row)
    except msgspec.MsgspecError:
        raise CannotTell("The request's record is of another version of Catflap: ask with that version.") from None
    record = event.record
    if record is None:
        raise CannotTell(
            f"Nothing is recorded of what was decided on the request {request!r}: its gateway died before it could "
            "say, it is from before there were policies, or its principal was erased."
        )
    if record.v != VERSION:
        raise CannotTell("The request's record is of another version of Catflap: ask with that version.")
    ruleset = await archived(database, record.ruleset)
    try:
        return Explained(event, explain(record, ruleset), accounts(record, ruleset))
    except Unrecorded as rule:
        if len(record.answers) >= MAX_ANSWERS:
            return Explained(event, None, accounts(record, ruleset))
        raise CannotTell(
            f"The rule {rule} asks what this record has no answer to: the record was not made by these rules."
        ) from None


async def archived(database: Database, version: str) -> Ruleset:
    """The ruleset of that version. Raises CannotTell."""
    empty = no_rules()
    if version == empty.version:
        return empty
    async with database.read() as connection:
        files = await files_of(connection, version)
    if files is None:
        raise CannotTell(
            f"The ruleset {version} that decided it is not in the archive: look for it under version control, and "
            "import the policies' database from a backup if it was lost."
        )
    try:
        ruleset = load(files)
    except PolicyError as problem:
        raise CannotTell(f"This version of Catflap cannot read the ruleset {version}: {problem}") from None
    if ruleset.version != version:
        raise CannotTell(
            f"This version of Catflap reads the ruleset {version} otherwise: ask with the one that ran it."
        )
    return ruleset


async def in_force(database: Database, policies: Path) -> Ruleset:
    """What gateways go by now: the last revision's, or the directory's. Raises CannotTell."""
    async with database.read() as connection:
        last = await last_revision(connection)
    if last is not None and last.version is not None:
        return await archived(database, last.version)
    try:
        return load(read_directory(policies))
    except PolicyError as problem:
        raise CannotTell(
            f"The rules in force cannot be read: {problem} Mend them, or compare with nothing (--against none)."
        ) from None


async def simulate_events(database: Database, simulator: Simulator, since_ms: int, until_ms: int) -> Simulation:
    """The ledger's events of a time. Those without a record, or with one of another version, cannot be decided."""
    decode, opening = msgspec.json.Decoder(Stored).decode, Opening()
    async for page in events.records(database, since_ms=since_ms, until_ms=until_ms):
        records: list[Record] = []
        for request, text in page:
            try:
                stored = None if text is None else decode(text)
                if stored is not None and stored.v == VERSION:
                    records.append(opening.open(stored, request))
                    continue
            except msgspec.MsgspecError:
                pass
            simulator.pass_over()
        simulator.take(records)
    return simulator.told()


class Line(msgspec.Struct, kw_only=True):
    """A RequestEvent, of which little is wanted, or a Record by itself."""

    v: int = VERSION
    request: str = ""
    at_ms: int | None = None
    record: Stored | None = None
    outcome: str | None = None
    facts: Facts | None = None
    roll: Roll | None = None
    ruleset: str | None = None
    answers: msgspec.Raw = msgspec.Raw(b"{}")


def simulate_lines(lines: Iterable[bytes], simulator: Simulator, since_ms: int = 0) -> Simulation:
    """Lines of RequestEvents, as `catflap events export` prints them, or of Records; those of before are passed over.
    Raises CannotTell."""
    records: list[Record] = []
    for record in records_in(lines, since_ms):
        if record is None:
            simulator.pass_over()
            continue
        records.append(record)
        if len(records) == AT_ONCE:
            simulator.take(records)
            records = []
    simulator.take(records)
    return simulator.told()


def records_in(lines: Iterable[bytes], since_ms: int = 0) -> Iterator[Record | None]:
    """The records; None for an event that has none. Raises CannotTell."""
    decode, opening = msgspec.json.Decoder(Line).decode, Opening()
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            line = decode(text)
            stored = line.record or _alone(line)
            at_ms = line.at_ms if stored is None or line.at_ms is not None else stored.facts.now.unix * 1000
            if at_ms is not None and at_ms < since_ms:
                continue
            known = stored is not None and stored.v == line.v == VERSION
            yield opening.open(stored, line.request) if stored is not None and known else None
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise CannotTell(_no_line(number)) from None
        if stored is None and line.outcome is None:
            raise CannotTell(_no_line(number))


def _alone(line: Line) -> Stored | None:
    """The line itself, if it is a record."""
    if line.facts is None or line.roll is None or line.ruleset is None:
        return None
    return Stored(
        v=line.v,
        request=line.request,
        facts=line.facts,
        roll=line.roll,
        ruleset=line.ruleset,
        answers=line.answers,
    )


def _no_line(number: int) -> str:
    return (
        f"Line {number} is neither a RequestEvent nor a Record: give a file that `catflap events export` has written "
        "(`catflap events schema` says what a line is)."
    )
