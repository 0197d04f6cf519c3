"""`catflap usage`: the bill, and the defence account, from the ledger's roll-ups."""

import csv
import io
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import msgspec
import typer
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.commands.console import BAD_USAGE, fail, read_settings
from gateway.commands.directory import run
from gateway.commands.times import instant_ms, month_start_ms, shown
from gateway.storage.database import Database
from gateway.storage.names import NAMED, ids_of, names_of
from gateway.storage.usage import CONTAINED, SUMS, TABLES, Span, usage
from gateway.telemetry import clock

Row = dict[str, Any]


class By(StrEnum):
    """The spans that a bill can have."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"


class Per(StrEnum):
    """What a bill can have lines for."""

    ORGANISATION = "organisation"
    PROJECT = "project"
    PRINCIPAL = "principal"
    KEY = "key"
    MODEL = "model"
    REGION = "region"


FORMS = {By.HOUR: "%Y-%m-%d %H:00", By.DAY: "%Y-%m-%d", By.MONTH: "%Y-%m"}
HEADS = {
    "prompt_tokens": "PROMPT",
    "cached_tokens": "CACHED",
    "completion_tokens": "COMPLETION",
    "kv_cost": "KV COST",
    "contained_requests": "CONTAINED",
    "contained_cost": "CHARGED",
    "beyond_prompt_tokens": "BEYOND: PROMPT",
    "beyond_completion_tokens": "COMPLETION",
    "beyond_cost": "COST",
}
COSTS = ("cost", "kv_cost", "contained_cost", "beyond_cost")
BILL = ("requests", *SUMS)
"""What a bill says. It may be handed on, so it does not say who is contained: the defence account does."""

Wanted = Annotated[str | None, typer.Option(metavar="NAME|ID", help="Only this one's.")]


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked: spans that begin in [since_ms, until_ms), for `only` (dimension -> name or id), a line `per`;
    the bill, or the defence account."""

    by: By
    since_ms: int
    until_ms: int
    only: Mapping[str, str]
    per: tuple[Per, ...]
    defence: bool = False

    @property
    def amounts(self) -> tuple[str, ...]:
        """What a line has, in the order of a table."""
        return CONTAINED if self.defence else BILL


def bill(
    org: Wanted = None,
    project: Wanted = None,
    principal: Wanted = None,
    key: Wanted = None,
    model: Annotated[str | None, typer.Option(help="Only this model.")] = None,
    region: Annotated[str | None, typer.Option(help="Only this region.")] = None,
    since: Annotated[str | None, typer.Option(help="2026-11-01, 2026-11-01T10:00 or 7d. Default: this month.")] = None,
    until: Annotated[str | None, typer.Option(help="Up to, and without, this instant. Default: now.")] = None,
    by: Annotated[By, typer.Option(help="A line for each of these, UTC.")] = By.DAY,
    per: Annotated[list[Per] | None, typer.Option(help="And for each of these. Default: organisation, model.")] = None,
    defence: Annotated[
        bool,
        typer.Option(
            "--defence",
            help="The defence account: what contained requests were charged (to refund), and what they used beyond "
            "that (to bill or to bear). Default: per principal.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of a table.")] = False,
) -> None:
    """What was used: requests, tokens and cost. A span is whole or not there: times are rounded down to its start."""
    if as_json and as_csv:
        fail("Say either --json or --csv.", BAD_USAGE)
    now_ms = clock.now_ms()
    names = {"organisation": org, "project": project, "principal": principal, "key": key}
    question = Question(
        by=by,
        since_ms=start_of(month_start_ms(now_ms) if since is None else instant_ms(since, "--since", now_ms), by),
        until_ms=now_ms if until is None else start_of(instant_ms(until, "--until", now_ms), by),
        only={name: text for name, text in {**names, "model": model, "region": region}.items() if text is not None},
        per=tuple(dict.fromkeys(per or ((Per.PRINCIPAL,) if defence else (Per.ORGANISATION, Per.MODEL)))),
        defence=defence,
    )
    lines = run(read_settings(), lambda database: answer(database, question))
    total = {name: sum(line[name] for line in lines) for name in question.amounts}
    if as_json:
        typer.echo(msgspec.json.encode({"question": question, "lines": lines, "total": total}).decode())
    else:
        typer.echo(as_text(lines, question) if as_csv else table(lines, total, question))


async def answer(database: Database, question: Question) -> list[Row]:
    """The lines, oldest first: `start` as text, dimensions by id and `…_name`, amounts."""
    span: Span = "hour" if question.by is By.HOUR else "day"
    async with database.read() as connection:
        only = {name: await ids_of(connection, name, text) for name, text in question.only.items()}
        found = await usage(
            connection,
            span=span,
            since_ms=question.since_ms,
            until_ms=question.until_ms,
            only=only,
            per=question.per,
            contained=question.defence,
        )
        lines = merged(found, question)
        await add_names(connection, lines, question.per)
    return lines


def merged(rows: Sequence[Row], question: Question) -> list[Row]:
    """Rows of the same span and dimensions added up: days become months here."""
    sums: dict[tuple[str, ...], Row] = {}
    for row in rows:
        head = {"start": shown(row["start_ms"], FORMS[question.by]), **{name.value: row[name] for name in question.per}}
        line = sums.setdefault(tuple(head.values()), {**head, **dict.fromkeys(question.amounts, 0)})
        for name in question.amounts:
            line[name] += row[name]
    return list(sums.values())


async def add_names(connection: AsyncConnection, lines: Sequence[Row], per: Sequence[Per]) -> None:
    for dimension in per:
        names = await names_of(connection, dimension, (line[dimension] for line in lines))
        for line in lines:
            if dimension in NAMED:
                line[f"{dimension}_name"] = names.get(line[dimension])


def as_text(lines: Sequence[Row], question: Question) -> str:
    """The lines as CSV with a head; costs in thousandths, as everywhere but in the table."""
    text = io.StringIO()
    names = [f"{name}_name" for name in question.per if name in NAMED]
    writer = csv.DictWriter(text, ["start", *question.per, *names, *question.amounts], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue().rstrip("\n")


def table(lines: Sequence[Row], total: Row, question: Question) -> str:
    """The lines for a person: names where there are any, cost units with three decimals, a total."""
    if not lines:
        return "Nothing was contained in this time." if question.defence else "Nothing was used in this time."
    heads = [question.by.upper(), *(name.upper() for name in question.per)]
    heads += [HEADS.get(name, name.upper()) for name in question.amounts]
    cells = [
        [line["start"], *(called(line, name) for name in question.per), *amounts(line, question)] for line in lines
    ]
    cells.append(["total", *("" for _ in question.per), *amounts(total, question)])
    widths = [max(len(row[i]) for row in [heads, *cells]) for i in range(len(heads))]
    texts = 1 + len(question.per)  # these stand left, numbers right
    rows = [
        [cell.ljust(widths[i]) if i < texts else cell.rjust(widths[i]) for i, cell in enumerate(row)]
        for row in [heads, *cells]
    ]
    return "\n".join("  ".join(row).rstrip() for row in rows)


def called(line: Row, dimension: str) -> str:
    return str(line.get(f"{dimension}_name") or line[dimension] or "-")


def amounts(line: Row, question: Question) -> list[str]:
    return [f"{line[name] / 1000:,.3f}" if name in COSTS else f"{line[name]:,}" for name in question.amounts]


def start_of(at_ms: int, by: By) -> int:
    """Where the span of an instant begins."""
    if by is By.MONTH:
        return month_start_ms(at_ms)
    _, span_ms = TABLES["hour" if by is By.HOUR else "day"]
    return at_ms - at_ms % span_ms
