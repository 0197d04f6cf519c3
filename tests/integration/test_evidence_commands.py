"""`catflap evidence` and `catflap canary`, as a person or a script calls them, on both databases."""

import json
import random
from functools import partial
from pathlib import Path

import msgspec
import pytest
import typer
from sqlalchemy import text
from typer.testing import CliRunner, Result

from gateway.canary.phrase import phrase_of, words_of
from gateway.commands import canary as canary_command
from gateway.commands import evidence as evidence_command
from gateway.evidence.seal import Seal
from gateway.evidence.writer import Evidence, Writer
from gateway.identity.issue import issue_key
from gateway.settings import Settings
from gateway.storage import canaries
from gateway.storage.canaries import Given
from gateway.storage.database import Database
from gateway.storage.tables import request_event
from gateway.telemetry import clock
from tests.support.commands import on
from tests.support.databases import PEPPER
from tests.support.events import make_event

app = typer.Typer()
app.add_typer(evidence_command.app, name="evidence")
app.add_typer(canary_command.app, name="canary")
KEY = b"a key of tests"
PLAIN = "how do I copy the weights"
DOCS = Path(__file__).parents[2] / "docs"


def catflap(*arguments: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), input=stdin)


def keep(url: str, *requests: str, answer: str = "an answer") -> None:
    async def work(database: Database) -> None:
        writer = Writer(database, Seal(Settings().evidence_secrets()), days=30)
        for request in requests:
            asked = json.dumps({"messages": [{"role": "user", "content": PLAIN}]}).encode()
            kept = Evidence(request, "org_1", "prin_1", clock.now_ms(), asked, b'{"sent":1}', (answer,))
            writer.keep(1000, partial(Evidence._make, kept))
        await writer.close()

    on(url, work)


def give(url: str, *uses: Given) -> None:
    async def work(database: Database) -> None:
        for start in range(0, len(uses), 5000):
            async with database.write() as connection:
                for at in range(start, min(start + 5000, len(uses)), 500):
                    await canaries.note(connection, uses[at : at + 500])

    on(url, work)


def test_a_list_tells_what_is_kept_and_nothing_of_what_it_says(url: str) -> None:
    keep(url, "req_1", "req_2")
    said = catflap("evidence", "list")
    assert said.exit_code == 0, said.stderr
    assert said.stdout.count("prin_1") == 2
    assert PLAIN not in said.stdout
    rows = json.loads(catflap("evidence", "list", "--json", "--principal", "prin_1", "--since", "1h").stdout)
    assert {row["request"] for row in rows} == {"req_1", "req_2"}
    assert set(rows[0]) == {"request", "organisation", "principal", "at_ms", "expires_at_ms", "bytes"}
    assert catflap("evidence", "list", "--principal", "prin_2").stdout == ""


def test_showing_leaves_who_read_it_and_why(url: str) -> None:
    keep(url, "req_1")
    said = catflap("evidence", "show", "req_1", "--reason", "ticket 7", "--reader", "ann")
    assert said.exit_code == 0, said.stderr
    assert PLAIN in said.stdout
    assert "an answer" in said.stdout
    assert json.loads(catflap("evidence", "show", "req_1", "--reason", "ticket 8", "--json").stdout)["content"]
    rows = json.loads(catflap("evidence", "readings", "--principal", "prin_1", "--json").stdout)
    assert [(row["request"], row["reason"]) for row in rows] == [("req_1", "ticket 8"), ("req_1", "ticket 7")]
    assert rows[1]["reader"] == "ann"
    assert rows[0]["reader"], "the system's user"
    assert "ticket 7" in catflap("evidence", "readings").stdout


def test_nothing_is_shown_where_the_reading_cannot_be_written_down(url: str) -> None:
    keep(url, "req_1")

    async def spoil(database: Database) -> None:
        async with database.write() as connection:
            await connection.execute(text("drop table evidence_reading"))

    on(url, spoil)
    said = catflap("evidence", "show", "req_1", "--reason", "ticket 7")
    assert said.exit_code == 1
    assert PLAIN not in said.output
    assert said.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["req_1", "--reason", " "], 2, "the reason is empty"),
        (["req_9", "--reason", "why"], 1, "There is no evidence of a request 'req_9'"),
        (["req_1"], 2, "--reason"),
    ],
)
def test_what_cannot_be_shown_is_told_in_a_sentence(url: str, arguments: list[str], code: int, sentence: str) -> None:
    keep(url, "req_1")
    said = catflap("evidence", "show", *arguments)
    assert said.exit_code == code
    assert sentence in said.stderr
    assert PLAIN not in said.output


def test_once_its_key_is_gone_the_command_says_which_setting_would_open_it(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(url, "req_1")
    (before,) = Settings().evidence_secrets()
    monkeypatch.setenv("CATFLAP_EVIDENCE_KEY", "another key, made up")
    said = catflap("evidence", "show", "req_1", "--reason", "ticket 7")
    assert said.exit_code == 1
    assert "CATFLAP_EVIDENCE_KEY_OLD" in said.stderr
    monkeypatch.setenv("CATFLAP_EVIDENCE_KEY_OLD", before)
    assert PLAIN in catflap("evidence", "show", "req_1", "--reason", "ticket 7").stdout


def test_an_answer_cannot_command_the_terminal_that_shows_it(url: str) -> None:
    keep(url, "req_1", answer="\x1b]0;owned\x07 and \x9b2J")
    said = catflap("evidence", "show", "req_1", "--reason", "ticket 7")
    assert "\x1b" not in said.stdout
    assert "\x9b" not in said.stdout
    assert "\\x1b]0;owned" in said.stdout


def test_a_trace_names_the_principal_how_sure_where_and_when(url: str, tmp_path: Path) -> None:
    async def person(database: Database) -> str:
        issued = await issue_key(
            database, PEPPER, organisation="acme", project="web", principal="ann", plan="free", name="laptop"
        )
        who = issued.record.principal
        events = [make_event(n, principal=who, contained=n != 2, canary_said=n == 3) for n in range(1, 9)]
        lists = dict.fromkeys(("matched", "logged", "flags"), "[]")
        async with database.write() as connection:
            rows = [{**msgspec.structs.asdict(event), **lists} for event in events]
            await connection.execute(request_event.insert(), rows)
        return who

    who: str = on(url, person)
    words = words_of(KEY, who)
    give(url, Given(who, words, 1_763_856_000_000, 1_763_942_400_000), Given("prin_2", words_of(KEY, "2"), 1, 1))
    pasted = tmp_path / "pasted.txt"
    pasted.write_text(f"He wrote:\n  {phrase_of(words).title()}, and more.\n")
    said = catflap("canary", "trace", str(pasted))
    assert said.exit_code == 0, said.stderr
    lines = said.stdout.splitlines()
    assert lines[0] == f"principal     {who} (acme/web/ann)"
    assert lines[1] == "how sure      almost certain: over 99.99%; 0% of its letters differ"
    assert lines[2] == f"where         character 12: {phrase_of(words).title()!r}"
    assert lines[3] == "phrase given  from 2025-11-23T00:00:00+00:00 to 2025-11-24T00:00:00+00:00"
    assert [line.split()[1] for line in lines[4:]] == [f"req_{n:032x}" for n in (8, 7, 6, 5, 4)]
    (found,) = json.loads(catflap("canary", "trace", "-", "--json", stdin=pasted.read_bytes()).stdout)
    assert (found["principal"], found["organisation"], found["at"]) == (who, "acme", 12)
    assert phrase_of(words) in catflap("canary", "list").stdout


def test_a_text_of_nobodys_names_nobody_and_exits_with_1(url: str) -> None:
    give(url, Given("prin_1", words_of(KEY, "prin_1"), 1, 1))
    said = catflap("canary", "trace", "-", stdin=b"The cat sat on the mat.")
    assert (said.exit_code, said.stdout) == (1, "The text holds the phrase of nobody who was ever given one.\n")
    said = catflap("canary", "trace", "-", "--json", stdin=b"The cat sat on the mat.")
    assert (said.exit_code, said.stdout) == (1, "[]\n")


@pytest.mark.parametrize(
    ("pasted", "sentence"), [(b" \n", "there is no text"), (b"x" * 1_000_001, "parts"), (b"x" * 4_000_001, "parts")]
)
def test_a_text_that_cannot_be_searched_is_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pasted: bytes, sentence: str
) -> None:
    monkeypatch.setenv("CATFLAP_DATA_DIR", str(tmp_path))
    said = catflap("canary", "trace", "-", stdin=pasted)
    assert said.exit_code == 2
    assert sentence in said.stderr
    assert catflap("canary", "trace", str(tmp_path / "nothing")).exit_code == 2


def test_a_principal_with_several_phrases_is_found_by_each_of_them(url: str) -> None:
    old, new = words_of(b"an old key", "prin_1"), words_of(KEY, "prin_1")
    give(url, Given("prin_1", old, 1, 2), Given("prin_1", new, 3, 4))
    for words, first in ((old, 1), (new, 3)):
        (found,) = json.loads(catflap("canary", "trace", "-", "--json", stdin=phrase_of(words).encode()).stdout)
        assert (found["principal"], found["first_at_ms"], found["name"]) == ("prin_1", first, None)


def test_among_ten_thousand_stored_the_command_names_the_right_one_though_a_fifth_is_changed(url: str) -> None:
    give(url, *(Given(f"prin_{n}", words_of(KEY, f"prin_{n}"), 1, 1) for n in range(10_000)))
    dice = random.Random(5)
    for _ in range(5):
        who = f"prin_{dice.randrange(10_000)}"
        pasted = f"You may know that {phrase_of(words_of(KEY, who))}. It is so."
        (found, *_) = json.loads(catflap("canary", "trace", "-", "--json", stdin=damaged(pasted, dice)).stdout)
        assert found["principal"] == who
    prose = (DOCS / "operations.md").read_bytes()[:20_000]
    assert catflap("canary", "trace", "-", stdin=prose).exit_code == 1


def damaged(text: str, dice: random.Random) -> bytes:
    letters = list(text)
    for at in dice.sample(range(len(text)), len(text) // 5):
        letters[at] = dice.choice("abcdefghijklmnopqrstuvwxyz")
    return "".join(letters).encode()
