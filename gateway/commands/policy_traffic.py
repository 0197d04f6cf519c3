"""`catflap policy explain` and `simulate`: recorded decisions, as they were made and as they would be made."""

import sys
from contextlib import nullcontext
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from gateway.commands.console import BAD_USAGE, FAILED, fail, read_settings, warn
from gateway.commands.directory import moment, run, to_json
from gateway.commands.times import instant_ms
from gateway.core.decision import Actions
from gateway.core.event import RequestEvent
from gateway.core.record import MAX_ANSWERS
from gateway.policy.problem import PolicyError
from gateway.policy.ruleset import Ruleset
from gateway.policy.simulate import RuleTally, Simulation, Simulator
from gateway.rules.directory import read_directory
from gateway.rules.load import load_examined
from gateway.rules.recorded import (
    CannotTell,
    Explained,
    explain_request,
    in_force,
    simulate_events,
    simulate_lines,
)
from gateway.settings import Settings
from gateway.storage.database import Database
from gateway.telemetry import clock
from gateway.workers.entries import MAX_BODY

EVENTS = "events"
DAY = "24h"
LEFT_OUT = f"not known rule by rule: more was asked about the words than the {MAX_ANSWERS} answers that a record holds"

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


class Against(StrEnum):
    """What a simulation is compared with."""

    CURRENT = "current"
    NONE = "none"


def explain(
    request: Annotated[str, typer.Argument(metavar="REQUEST_ID", help="The request's id: req_…, chatcmpl-…")],
    as_json: AsJson = False,
) -> None:
    """Say what was decided on a past request, rule by rule, by the rules that were in force then."""
    try:
        found = run(read_settings(), lambda database: explain_request(database, request))
    except CannotTell as why:
        fail(str(why))
    typer.echo(to_json(explained_values(found)) if as_json else "\n".join(explained_lines(found)))


def simulate(
    source: Annotated[
        str,
        typer.Option("--from", metavar="events|FILE|-", help="The ledger, or JSON lines as `events export` prints."),
    ],
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIR", help="A directory with `rules/` in it. Default: CATFLAP_POLICIES.", show_default=False
        ),
    ] = None,
    last: Annotated[
        str | None, typer.Option(help="Only so recent ones: 24h, 7d, or since 2026-11-01. Default: 24h of events.")
    ] = None,
    against: Annotated[Against, typer.Option(help="Compare with the rules in force, or with none.")] = Against.CURRENT,
    fail_undecided: Annotated[
        float | None,
        typer.Option(min=0, max=100, metavar="PERCENT", help="Exit 1 where more than so many cannot be decided."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Replay recorded traffic under a directory's rules: whom each would touch, what would change, what cannot be told
    because words are not kept. Changes nothing."""
    settings, now_ms = read_settings(), clock.now_ms()
    place = settings.policies if folder is None else folder
    span = last or (DAY if source == EVENTS else None)
    since_ms = 0 if span is None else instant_ms(span, "--last", now_ms)
    try:
        ruleset = load_examined(read_directory(place))
        told = simulated(settings, ruleset, source, against, since_ms, now_ms)
    except PolicyError as problem:
        fail(f"{problem}\nThe rules do not load, so nothing was simulated: `catflap policy check` says what is wrong.")
    except CannotTell as why:
        fail(str(why))
    except OSError as problem:
        fail(f"The file {source} cannot be read: {problem.strerror}.", BAD_USAGE)
    typer.echo(to_json(simulated_values(told)) if as_json else "\n".join(simulated_lines(told, against)))
    if fail_undecided is not None and told.undecided_percent > fail_undecided:
        warn(f"{told.undecided_percent:.1f}% cannot be decided, more than {fail_undecided:g}%.")
        raise typer.Exit(FAILED)


def simulated(
    settings: Settings, ruleset: Ruleset, source: str, against: Against, since_ms: int, until_ms: int
) -> Simulation:
    """The simulation; the database is asked only where it is needed. Raises CannotTell, OSError."""
    compare = against is Against.CURRENT

    async def today(database: Database) -> Ruleset:
        return await in_force(database, settings.policies)

    async def of_events(database: Database) -> Simulation:
        simulator = Simulator(ruleset, await today(database) if compare else None)
        return await simulate_events(database, simulator, since_ms, until_ms)

    if source == EVENTS:
        return run(settings, of_events)
    with nullcontext(sys.stdin.buffer) if source == "-" else Path(source).open("rb") as opened:
        simulator = Simulator(ruleset, run(settings, today) if compare else None)
        return simulate_lines(iter(partial(opened.readline, MAX_BODY + 1), b""), simulator, since_ms)


# -- views


def explained_values(found: Explained) -> dict[str, Any]:
    """As JSON: what was decided, rule by rule, on which facts, and what was done."""
    event = found.event
    assert event.record is not None, "what is explained has a record"
    done = ("outcome", "status", "contained", "shadow", "canary_said", "matched", "logged", "flags")
    return {
        "request": event.request,
        "at_ms": event.at_ms,
        "organisation": event.organisation,
        "principal": event.principal,
        "decision": every_field(found.decision),
        "rules": [account._asdict() for account in found.rules],
        "facts": event.record.facts,
        "roll": event.record.roll,
        "done": {name: getattr(event, name) for name in done},
    }


def every_field(value: msgspec.Struct | None) -> dict[str, Any] | None:
    """With the fields that hold their defaults too: whoever reads them need not ask whether they are there."""
    if value is None:
        return None
    fields = msgspec.structs.asdict(value)
    return {name: every_field(one) if isinstance(one, msgspec.Struct) else one for name, one in fields.items()}


def explained_lines(found: Explained) -> list[str]:
    """For a person."""
    event, decision = found.event, found.decision
    assert event.record is not None, "what is explained has a record"
    heads = {
        "request": event.request,
        "arrived": moment(event.at_ms),
        "principal": f"{event.principal} ({event.record.facts.principal.state})",
        "asked": f"{event.endpoint} of {event.model}",
        "ruleset": event.record.ruleset,
        "decision": LEFT_OUT if decision is None else decision.reason,
        "actions": actions_in_force(event) if decision is None else actions_of(decision.actions),
        "answered": f"{event.status}, {event.outcome}" + (f", by {event.shadow}" if event.shadow else ""),
    }
    lines = [f"{name:<11} {value}" for name, value in heads.items()]
    if event.canary_said:
        lines.append(f"{'canary':<11} its phrase was in the answer")
    lines.append("")
    rows: list[tuple[str, ...]] = [("RULE", "MODE", "HOLDS", "KEPT BACK BY", "CONDITION")]
    for rule in found.rules:
        held = "" if rule.held is None else rule.held.replace("_", " ")
        rows.append((rule.id, rule.mode, rule.verdict, held, " ".join(rule.condition.split())))
    lines += columns(rows) if found.rules else ["There was no rule that was not off."]
    if event.record.answers:
        told = ", ".join(f"{name} {'yes' if said else 'no'}" for name, said in sorted(event.record.answers.items()))
        lines += ["", f"asked about the words: {told}"]
    return lines


def actions_in_force(event: RequestEvent) -> str:
    """As far as the event itself says it."""
    return f"those of {', '.join(event.matched)}" if event.matched else "as usual"


def simulated_values(told: Simulation) -> dict[str, Any]:
    """As JSON. `principals`: how many."""
    rules = [{**msgspec.structs.asdict(rule), "principals": len(rule.principals)} for rule in told.rules]
    changes = [change._asdict() for change in told.changes]
    values = {**msgspec.structs.asdict(told), "rules": rules, "changes": changes}
    return {**values, "undecided_percent": round(told.undecided_percent, 3)}


def simulated_lines(told: Simulation, against: Against) -> list[str]:
    """For a person."""
    lines = [f"ruleset {told.ruleset} on {told.requests:,} recorded requests", ""]
    rows: list[tuple[str, ...]] = [("RULE", "MODE", "HOLDS", "PRINCIPALS", "MAY HOLD", "FAILED", "FOR EXAMPLE")]
    rows += [row_of(rule) for rule in told.rules]
    lines += columns(rows) if told.rules else ["There is no rule that is not off."]
    lines += ["", f"served as usual     {told.as_usual:,}"]
    if against is Against.CURRENT:
        lines += [f"same as today       {told.same:,}", f"otherwise than now  {told.changed:,}"]
        lines += [f"not compared        {told.not_compared:,}"] if told.not_compared else []
    share = f"{told.undecided:,} ({told.undecided_percent:.1f}%)"
    lines.append(f"cannot be decided   {share}: their words were not kept, and these rules ask about them")
    if told.unrecorded:
        lines.append(f"                    {told.unrecorded:,} of them have no record at all")
    for change in told.changes:
        lines += ["", f"{change.request} of {change.principal}"]
        lines += [f"  now       {actions_of(change.was)}", f"  would be  {actions_of(change.would_be)}"]
    return lines


def row_of(rule: RuleTally) -> tuple[str, ...]:
    """One rule's line."""
    counts = (f"{count:,}" for count in (rule.yes, len(rule.principals), rule.unknown, rule.failed))
    return (rule.id, rule.mode, *counts, " ".join(rule.samples[:2]))


def actions_of(actions: Actions) -> str:
    """In a few words."""
    said = []
    if actions.refusal is not None:
        said.append(f"refused with {actions.refusal.status} {actions.refusal.code}")
    said += [f"{edit.place} {edit.text!r}" for edit in actions.edits]
    if actions.canary:
        said.append("canary")
    if actions.shadow is not None:
        said.append(f"shadow {actions.shadow.model or f'pool:{actions.shadow.pool}'}")
    if actions.slow is not None:
        said.append(f"slow {actions.slow.low:g} to {actions.slow.high:g}")
    if actions.max_tokens is not None:
        said.append(f"at most {actions.max_tokens} tokens")
    said += [f"flag {flag}" for flag in actions.flags]
    return "; ".join(said) or "as usual"


def columns(rows: list[tuple[str, ...]]) -> list[str]:
    """One row a line."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
