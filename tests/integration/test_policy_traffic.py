"""`catflap policy explain` and `simulate` on recorded traffic: a past decision is told again exactly as it was made,
and what other rules would make of the traffic is told before they count."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer
from typer.testing import CliRunner, Result

from gateway.commands.events import line_of
from gateway.commands.policy_traffic import LEFT_OUT, explain, simulate
from gateway.core.decision import Decision
from gateway.core.event import RequestEvent
from gateway.core.facts import ClientFacts, Facts, Roll, now_facts
from gateway.core.record import MAX_ANSWERS
from gateway.policy.decide import decide
from gateway.policy.record import encode, record_of
from gateway.policy.ruleset import Ruleset, no_rules
from gateway.rules.load import load
from gateway.storage.database import Database
from gateway.storage.policies import Files, Revision, append, archive, one_writer
from gateway.telemetry import clock
from tests.support.commands import book, on
from tests.support.events import make_event
from tests.unit.policy.writing import CAT, facts, text_of

app = typer.Typer()
app.command()(explain)
app.command()(simulate)

DENY = "{deny: {}}"
SECRET = 'request.user_text.contains("secret")'
OTHER = 'request.user_text.contains("other")'
FORMER: Files = {
    "rules/cat.yaml": text_of('principal.state == "contained"', CAT, name="cat", priority=9).decode(),
    "rules/deny.yaml": text_of(SECRET, DENY, name="deny", priority=5).decode(),
    "rules/held.yaml": text_of("true", CAT, name="held", rollout="{percent: 0}").decode(),
    "rules/logged.yaml": text_of("request.n == 1", name="logged", mode="log").decode(),
}


def catflap(*arguments: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), input=stdin)


def written(folder: Path, files: Files) -> Path:
    """A directory with these policy files and no others."""
    (folder / "rules").mkdir(parents=True, exist_ok=True)
    for old in (folder / "rules").iterdir():
        old.unlink()
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def keep(url: str, files: Files) -> Ruleset:
    """Archive a ruleset."""
    ruleset = load(files)

    async def work(database: Database) -> None:
        async with database.write() as connection:
            await archive(connection, ruleset.version, files, 1)

    on(url, work)
    return ruleset


def put_in_force(url: str, version: str) -> None:
    async def work(database: Database) -> None:
        async with one_writer(database) as connection:
            first = Revision(
                number=1, version=version, containment=True, kind="apply", author="a", message="m", at_ms=1
            )
            await append(connection, first)

    on(url, work)


def served(number: int, known: Facts, rules: Ruleset, *, at_ms: int | None = None) -> RequestEvent:
    """The event of a request that was decided by these rules a moment ago."""
    arrived = clock.now_ms() - 60_000 + number if at_ms is None else at_ms
    known = msgspec.structs.replace(known, now=now_facts(arrived))
    roll = Roll(number * 7919, number)
    decision = decide(known, rules, roll)
    event = make_event(number, at_ms=arrived, principal=known.principal.id)
    told = {"matched": decision.matched, "logged": decision.logged, "contained": decision.actions.contains}
    return msgspec.structs.replace(event, record=record_of(known, roll, decision, event.request), **told)


def person(number: int, *texts: str, state: str = "normal") -> Facts:
    known = facts(*texts, state=state)
    who = msgspec.structs.replace(known.principal, id=f"prin_{number}")
    return msgspec.structs.replace(known, principal=who, client=ClientFacts(user_agent="curl/8"))


def traffic(rules: Ruleset) -> list[RequestEvent]:
    """Six requests of three principals; every second one says `secret`, `prin_0` is contained."""
    return [
        served(
            number,
            person(number % 3, "a secret" if number % 2 else "hi", state="normal" if number % 3 else "contained"),
            rules,
        )
        for number in range(6)
    ]


# -- explain


def test_a_past_decision_is_explained_rule_by_rule_by_the_rules_of_then(url: str, tmp_path: Path) -> None:
    rules = keep(url, FORMER)
    events = traffic(rules)
    book(url, events)
    written(tmp_path / "policies", {"rules/new.yaml": text_of("true", DENY, name="new").decode()})
    for each in events:
        found = json.loads(catflap("explain", each.request, "--json").stdout)
        assert msgspec.convert(found["decision"], Decision) == decide_again(each, rules)
        assert tuple(found["decision"]["matched"]) == tuple(found["done"]["matched"]) == each.matched
    found = json.loads(catflap("explain", events[3].request, "--json").stdout)
    assert [(rule["id"], rule["verdict"], rule["held"]) for rule in found["rules"]] == [
        ("cat", "yes", None),
        ("deny", "yes", None),
        ("held", "yes", "rollout"),
        ("logged", "yes", None),
    ]
    text = catflap("explain", events[3].request).stdout
    assert "refused by deny" in text
    assert "a secret" not in text
    assert 'request.user_text.contains("secret")' in text


def decide_again(event: RequestEvent, rules: Ruleset) -> object:
    """What the words themselves would have led to."""
    assert event.record is not None
    text = "a secret" if int(event.request[-1]) % 2 else "hi"
    return decide(msgspec.structs.replace(event.record.facts, texts=(text,)), rules, event.record.roll)


def test_a_request_under_no_rules_at_all_is_explained_without_an_archive(url: str) -> None:
    book(url, [served(1, person(1, "hi"), no_rules())])
    said = catflap("explain", make_event(1).request)
    assert said.exit_code == 0, said.stderr
    assert "no policy applies" in said.stdout


def test_why_a_decision_cannot_be_explained_is_said_in_a_sentence(url: str) -> None:
    rules = load(FORMER)
    book(url, [make_event(1), served(2, person(1, "hi"), rules)])
    for request, sentence in (
        ("req_none", "There is no request 'req_none' in the ledger"),
        (make_event(1).request, "Nothing is recorded of what was decided"),
        (make_event(2).request, f"The ruleset {rules.version} that decided it is not in the archive"),
    ):
        said = catflap("explain", request)
        assert (said.exit_code, said.stdout) == (1, "")
        assert said.stderr.startswith(sentence)
        assert said.stderr.count("\n") == 1


def test_a_record_that_other_rules_made_is_not_explained_wrongly(url: str) -> None:
    rules = keep(url, FORMER)
    event = served(1, person(1, "hi"), rules)
    assert event.record is not None
    book(url, [msgspec.structs.replace(event, record=msgspec.structs.replace(event.record, answers={}))])
    said = catflap("explain", event.request)
    assert said.exit_code == 1
    assert "The rule deny asks what this record has no answer to" in said.stderr


def test_where_a_record_had_no_room_for_all_answers_what_is_known_is_told(url: str) -> None:
    conditions = [f'request.user_text.contains("word {number}")' for number in range(MAX_ANSWERS + 1)]
    files = {
        f"rules/r{number}.yaml": text_of(one, name=f"r{number}", priority=-number).decode()
        for number, one in enumerate(conditions)
    }
    event = served(1, person(1, f"a word {MAX_ANSWERS}"), keep(url, files))
    book(url, [event])
    assert event.matched == ("r2", "r25", f"r{MAX_ANSWERS}")
    said = catflap("explain", event.request)
    assert said.exit_code == 0, said.stderr
    assert f"decision    {LEFT_OUT}" in said.stdout
    assert f"actions     those of r2, r25, r{MAX_ANSWERS}" in said.stdout
    found = json.loads(catflap("explain", event.request, "--json").stdout)
    assert found["decision"] is None
    assert [rule["verdict"] for rule in found["rules"]].count("unknown") == 1


# -- simulate


IS_CAT = ('principal.state == "contained"', CAT, "{principal: {state: contained}}")
IS_DENIED = (SECRET, DENY, "{request: {prompt: secret}}")
IS_OTHER = (OTHER, "{flag: x}", "{request: {prompt: other}}")


def tomorrow(tmp_path: Path, **rules: tuple[str, str, str]) -> str:
    """A directory with these rules; what is given last is an example that matches."""
    files = {}
    for name, (match, action, given) in rules.items():
        text = text_of(match, action, name=name).decode()
        files[f"rules/{name}.yaml"] = text.replace("{given: {}, expect: {matched: true}}",
                                                   f"{{given: {given}, expect: {{matched: true}}}}")  # fmt: skip
    return str(written(tmp_path / "tomorrow", files))


def asked(*arguments: str) -> dict[str, Any]:
    said = catflap("simulate", *arguments, "--json")
    assert said.exit_code == 0, said.stderr
    found: dict[str, Any] = json.loads(said.stdout)
    return found


def test_a_simulation_says_who_would_be_touched_what_changes_and_what_it_cannot_tell(url: str, tmp_path: Path) -> None:
    rules = keep(url, FORMER)
    put_in_force(url, rules.version)
    book(url, [*traffic(rules), served(7, person(9), rules, at_ms=1)])  # the last one long ago
    written(tmp_path / "policies", {"rules/x.yaml": "edited, not applied"})
    folder = tomorrow(tmp_path, cat=IS_CAT, other=IS_OTHER)
    found = asked(folder, "--from", "events")
    assert found["requests"] == 6
    touched = {rule["id"]: (rule["yes"], rule["principals"], rule["unknown"]) for rule in found["rules"]}
    assert touched == {"cat": (2, 1, 0), "other": (0, 0, 6)}
    assert (found["undecided"], found["undecided_percent"]) == (6, 100.0)
    folder = tomorrow(tmp_path, cat=IS_CAT)
    found = asked(folder, "--from", "events")
    assert (found["same"], found["changed"], found["undecided"]) == (3, 3, 0)
    assert found["changes"][0]["was"]["refusal"]["status"] == 403
    assert asked(folder, "--from", "events", "--against", "none")["not_compared"] == 6
    assert asked(folder, "--from", "events", "--last", "1970-01-01")["requests"] == 7
    text = catflap("simulate", folder, "--from", "events").stdout
    assert "otherwise than now  3" in text
    assert "now       refused with 403" in text


def test_too_much_that_cannot_be_decided_fails_a_build(url: str, tmp_path: Path) -> None:
    rules = keep(url, FORMER)
    book(url, [*traffic(rules)[:3], make_event(8, at_ms=clock.now_ms() - 5)])  # one has no record
    clear = tomorrow(tmp_path, cat=IS_CAT)
    assert catflap("simulate", clear, "--from", "events", "--fail-undecided", "25").exit_code == 0
    said = catflap("simulate", clear, "--from", "events", "--fail-undecided", "20")
    assert said.exit_code == 1
    assert "25.0% cannot be decided, more than 20%" in said.stderr
    assert "1 of them have no record at all" in said.stdout


def test_a_file_of_events_or_of_records_is_simulated_without_a_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CATFLAP_DATABASE_URL", "sqlite:////nowhere/at/all.db")
    events = traffic(load(FORMER))
    folder = tomorrow(tmp_path, deny=IS_DENIED, cat=IS_CAT)
    exported, records = tmp_path / "events.jsonl", tmp_path / "records.jsonl"
    exported.write_bytes(b"".join(line_of(each) for each in events))
    records.write_bytes(b"\n".join(encode(each.record) for each in events))
    of_events = asked(folder, "--from", str(exported), "--against", "none")
    assert asked(folder, "--from", str(records), "--against", "none") == of_events
    piped = catflap("simulate", folder, "--from", "-", "--against", "none", "--json", stdin=records.read_bytes())
    assert json.loads(piped.stdout) == of_events
    assert [rule["yes"] for rule in of_events["rules"]] == [2, 3]
    assert of_events["rules"][0]["samples"] == [events[0].request, events[3].request]
    assert asked(folder, "--from", str(exported), "--against", "none", "--last", "1m")["requests"] == 0


def test_what_cannot_be_simulated_is_told_in_a_sentence(url: str, tmp_path: Path) -> None:
    good = line_of(traffic(load(FORMER))[0])
    folder = tomorrow(tmp_path, cat=IS_CAT)
    for line in (b"{", b"{}", b"[]", b'{"facts": 1}', b"\xff", b"x" * 100_000):
        said = catflap("simulate", folder, "--from", "-", "--against", "none", stdin=good + b"\n" + line)
        assert said.exit_code == 1
        assert said.stderr.startswith("Line 3 is neither a RequestEvent nor a Record"), line[:9]
    assert catflap("simulate", folder, "--from", "/nowhere").exit_code == 2
    assert catflap("simulate", folder, "--from", "events", "--last", "soon").exit_code == 2
    broken = written(tmp_path / "broken", {"rules/a.yaml": text_of("principal.stat == 1").decode()})
    said = catflap("simulate", str(broken), "--from", "events")
    assert said.exit_code == 1
    assert "rules/a.yaml, line 8: there is no variable 'principal.stat'" in said.stderr
    put_in_force(url, "gone")
    said = catflap("simulate", folder, "--from", "events")
    assert said.exit_code == 1
    assert "The ruleset gone" in said.stderr
