"""`catflap usage` and `catflap events`, as a person or a script calls them, on both databases."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer
from typer.testing import CliRunner, Result

from gateway.commands import events as events_command
from gateway.commands.usage import bill
from gateway.core import event
from gateway.core.event import RequestEvent, event_schema
from gateway.core.facts import ClientFacts, Facts, PrincipalFacts, Roll
from gateway.core.record import Record
from gateway.storage.database import Database
from gateway.storage.migrate import migrate
from gateway.storage.tables import organisation
from tests.support.books import audit, totals
from tests.support.commands import book, on
from tests.support.events import make_event
from tests.support.ledger import booked

app = typer.Typer()
app.add_typer(events_command.app, name="events")
app.command("usage")(bill)
DAY = 86_400_000
NOVEMBER = 1_761_955_200_000  # 2025-11-01T00:00Z


def catflap(*arguments: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), input=stdin)


def november() -> list[RequestEvent]:
    """Four requests: two on the first, one an hour later, one in December, of two organisations."""
    return [
        make_event(1, at_ms=NOVEMBER + 5, cost=1500, kv_cost=500, region="north"),
        make_event(2, at_ms=NOVEMBER + 6, cost=2500, organisation="org_2", key="key_2", cached_tokens=4),
        make_event(3, at_ms=NOVEMBER + 3_600_000, cost=1000, model="large", outcome="failed"),
        make_event(4, at_ms=NOVEMBER + 30 * DAY, cost=7000),
    ]


def asked(*arguments: str) -> tuple[list[dict[str, Any]], dict[str, int]]:
    said = catflap("usage", "--since", "2025-11-01", "--json", *arguments)
    assert said.exit_code == 0, said.stderr
    found = json.loads(said.stdout)
    return found["lines"], found["total"]


def test_usage_is_a_table_with_names_and_totals_for_a_person(url: str) -> None:
    book(url, november())

    async def name(database: Database) -> None:
        async with database.write() as connection:
            await connection.execute(organisation.insert().values(id="org_1", name="acme", created_at_ms=1))

    on(url, name)
    said = catflap("usage", "--since", "2025-11-01", "--until", "2025-12-01", "--by", "month")
    assert said.exit_code == 0, said.stderr
    assert said.stdout.splitlines() == [
        "MONTH    ORGANISATION  MODEL  REQUESTS  PROMPT  CACHED  COMPLETION   COST  KV COST",
        "2025-11  acme          demo          1      10       0           5  1.500    0.500",
        "2025-11  acme          large         1      10       0           5  1.000    0.000",
        "2025-11  org_2         demo          1      10       4           5  2.500    0.000",
        "total                                3      30       4          15  5.000    0.500",
    ]
    assert (
        catflap("usage", "--since", "2020-01-01", "--until", "2020-02-01").stdout == "Nothing was used in this time.\n"
    )


def test_usage_is_asked_by_span_and_by_whom(url: str) -> None:
    book(url, november())
    lines, total = asked("--by", "hour", "--per", "key")
    assert [(line["start"], line["key"], line["requests"]) for line in lines] == [
        ("2025-11-01 00:00", "key_1", 1),
        ("2025-11-01 00:00", "key_2", 1),
        ("2025-11-01 01:00", "key_1", 1),
        ("2025-12-01 00:00", "key_1", 1),
    ]
    assert total["cost"] == 12_000
    assert [line["start"] for line in asked("--per", "model")[0]] == ["2025-11-01", "2025-11-01", "2025-12-01"]
    assert asked("--model", "large")[1]["requests"] == 1
    assert asked("--region", "north")[1]["kv_cost"] == 500
    assert asked("--org", "org_2")[1] == {**asked("--key", "key_2")[1]}
    assert asked("--project", "proj_1", "--principal", "prin_1")[1]["requests"] == 4
    assert asked("--org", "nobody") == ([], dict.fromkeys(total, 0))


def test_usage_as_csv_is_read_by_a_spreadsheet(url: str) -> None:
    book(url, november())
    said = catflap("usage", "--since", "2025-11-01", "--by", "month", "--csv", "--per", "model", "--per", "region")
    rows = list(csv.DictReader(io.StringIO(said.stdout)))
    assert [(row["start"], row["model"], row["region"], row["cost"]) for row in rows] == [
        ("2025-11", "demo", "", "2500"),
        ("2025-11", "demo", "north", "1500"),
        ("2025-11", "large", "", "1000"),
        ("2025-12", "demo", "", "7000"),
    ]


def contained(number: int, **fields: Any) -> RequestEvent:
    """A request that was told 10 + 5 tokens and charged for them, and used more."""
    record = Record(
        request=f"req_{number:032x}",
        facts=Facts(principal=PrincipalFacts(id="prin_1", state="contained", score=2.5), client=ClientFacts(ip="::1")),
        roll=Roll(subject=2**64 - 1, request=3),
        ruleset="v1",
        answers={"p123": True},
    )
    values: dict[str, Any] = {
        "contained": True,
        "cost": 1000,
        "beyond_prompt_tokens": 30,
        "beyond_cached_tokens": 20,
        "beyond_completion_tokens": 2,
        "beyond_cost": 700,
        "shadow": "pool:decoy",
        "canary_said": True,
        "matched": ("cat", "slow"),
        "logged": ("fresh",),
        "flags": ("probe",),
        "record": record,
    }
    return make_event(number, **{**values, **fields})


def test_the_defence_account_says_what_to_refund_and_what_was_used_beyond_and_the_bill_says_neither(url: str) -> None:
    estimate = make_event(7, at_ms=NOVEMBER + 7, cost=90, outcome="reclaimed")
    book(url, [*november(), estimate])
    settled = contained(7, at_ms=NOVEMBER + 7)
    other = contained(8, at_ms=NOVEMBER + 8, principal="prin_2", beyond_cost=0)
    book(url, [settled, other])
    on(url, audit)
    lines, total = asked("--defence", "--by", "month")
    assert [(line["principal"], line["contained_requests"], line["contained_cost"], line["beyond_cost"])
            for line in lines] == [("prin_1", 1, 1000, 700), ("prin_2", 1, 1000, 0)]  # fmt: skip
    assert total == {
        "contained_requests": 2,
        "contained_cost": 2000,
        "beyond_prompt_tokens": 60,
        "beyond_completion_tokens": 4,
        "beyond_cost": 700,
    }
    said = catflap("usage", "--since", "2025-11-01", "--until", "2025-12-01", "--by", "month", "--defence")
    assert said.stdout.splitlines() == [
        "MONTH    PRINCIPAL  CONTAINED  CHARGED  BEYOND: PROMPT  COMPLETION   COST",
        "2025-11  prin_1             1    1.000              30           2  0.700",
        "2025-11  prin_2             1    1.000              30           2  0.000",
        "total                       2    2.000              60           4  0.700",
    ]
    assert asked("--defence", "--per", "model", "--org", "org_2") == ([], dict.fromkeys(total, 0))
    none = catflap("usage", "--defence", "--since", "2020-01-01", "--until", "2020-02-01")
    assert none.stdout == "Nothing was contained in this time.\n"
    for line in (*asked()[0], asked()[1]):  # a bill may be handed to whom it is for
        assert not [name for name in line if "contained" in name or "beyond" in name]
    assert "contained" not in catflap("usage", "--since", "2025-11-01", "--csv").stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["usage", "--since", "yesterday"], "2026-11-01"),
        (["usage", "--since", "1914-01-01"], "before 1970"),
        (["usage", "--json", "--csv"], "either --json or --csv"),
        (["events", "import", "/nowhere"], "cannot be read"),
        (["events", "prune", "--before", "1h"], "Events of the last 24 hours are kept"),
    ],
)
def test_bad_usage_gets_a_sentence_and_status_2(url: str, arguments: list[str], sentence: str) -> None:
    said = catflap(*arguments)
    assert said.exit_code == 2
    assert sentence in said.stderr


def test_what_is_exported_can_be_imported_elsewhere_and_again(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = make_event(5, stream=True, ttft_ms=3, finish_reason="stop", upstream="e0", end_user="digest", attempts=2)
    shadowed = contained(6)
    book(url, [*november(), full, shadowed])
    exported = catflap("events", "export").stdout_bytes
    lines = [json.loads(line) for line in exported.splitlines()]
    assert [line["v"] for line in lines] == [1] * 6
    assert shadowed in [event.decode(line) for line in exported.splitlines()]
    assert [line["at_ms"] for line in lines] == sorted(line["at_ms"] for line in lines)

    elsewhere = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    migrate(elsewhere)
    monkeypatch.setenv("CATFLAP_DATABASE_URL", elsewhere)
    for expected in ("6 booked, 0 there already\n", "0 booked, 6 there already\n"):
        assert catflap("events", "import", "-", stdin=exported).stdout == expected
        assert on(elsewhere, totals)["cost"] == 13_000
        assert on(elsewhere, totals)["beyond_cost"] == 700
        on(elsewhere, audit)
    assert catflap("events", "export").stdout_bytes == exported


def test_export_is_bounded_by_time_and_organisation_and_pages_lose_nothing(url: str) -> None:
    many = [make_event(number, at_ms=NOVEMBER + number // 700) for number in range(2500)]  # 700 in one millisecond
    book(url, many)
    book(url, [make_event(9999, organisation="org_2", at_ms=NOVEMBER + 1)])
    assert len(catflap("events", "export").stdout.splitlines()) == 2501
    found = catflap("events", "export", "--org", "org_2").stdout.splitlines()
    assert [json.loads(line)["organisation"] for line in found] == ["org_2"]
    until = catflap("events", "export", "--until", "2025-11-01").stdout
    assert until == ""


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b'{"v": 2, "to": "come"}', "Line 3 is an event of another version than 1"),
        (b'{"v": 1, "to": "come"}', "Line 3 cannot be imported: not a RequestEvent"),
        (
            msgspec.json.encode({**msgspec.structs.asdict(make_event(7)), "v": 2}),
            "Line 3 is an event of another version",
        ),
        (b"{", "Line 3 cannot be imported: not JSON"),
        (b"x" * 100_000, "Line 3 cannot be imported: longer than 65536 bytes"),
    ],
)
def test_a_line_that_is_no_event_is_named_and_the_lines_before_it_are_there(
    url: str, line: bytes, sentence: str
) -> None:
    good = [events_command.line_of(make_event(number)) for number in (1, 2, 3)]
    said = catflap("events", "import", "-", stdin=good[0] + b"\n" + line + b"\n" + good[1])
    assert said.exit_code == 1
    assert said.stderr.startswith(sentence)
    assert said.stderr.count("\n") == 1
    assert set(on(url, booked)) == {make_event(1).request}
    on(url, audit)


def test_pruning_keeps_the_roll_ups_and_nothing_pruned_is_counted_again(url: str) -> None:
    book(url, november())
    exported = catflap("events", "export").stdout_bytes
    before = asked()
    said = catflap("events", "prune", "--before", "2025-11-15", "--json")
    assert json.loads(said.stdout) == {"pruned": 3, "before_ms": NOVEMBER + 14 * DAY}
    assert asked() == before
    assert len(on(url, booked)) == 1
    again = catflap("events", "import", "-", stdin=exported)
    assert again.stdout == "0 booked, 1 there already\n"
    assert "3 are older than what was pruned here" in again.stderr
    assert asked() == before
    assert catflap("events", "prune", "--before", "2025-11-15").stdout.startswith("0 events from before 2025-11-15")


def test_the_schema_is_printed_as_it_is_published() -> None:
    printed = json.loads(catflap("events", "schema").stdout)
    assert printed == json.loads(json.dumps(event_schema()))
    properties = printed["$defs"]["RequestEvent"]["properties"]
    assert tuple(properties) == RequestEvent.__struct_fields__
    assert set(printed["$defs"]["RequestEvent"]["required"]) < set(json.loads(events_command.line_of(make_event(1))))
    assert properties["v"] == {"const": 1, "default": 1}
