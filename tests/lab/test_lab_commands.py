"""The proofs' commands: a table or JSON, and exit 1 where something was not as promised."""

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from gateway.commands import lab as command
from lab.bench.errors import BenchError
from lab.books import run as books
from lab.books.judge import Judged
from lab.exactness import run as exactness
from lab.exactness.audit import Ask, audit_window
from lab.faults import run as faults
from lab.faults.run import Finding, Result

CALM = Finding(
    fault="rain", lasted_s=1, seconds=[{"200": 5}], longest_s=0.1, longest_before_s=0.1, back_s=0, told=5, lost=[]
)
LOSS = Finding(
    fault="fire", lasted_s=1, seconds=[{"503": 5}], longest_s=0.1, longest_before_s=0.1, back_s=0, told=0, lost=["r1"]
)


def invoke(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(command.app, words)
    return result.exit_code, result.stdout


def planted(monkeypatch: pytest.MonkeyPatch, module: Any, result: object) -> None:
    monkeypatch.setattr(module, "run", lambda *_words, **_options: result)


@pytest.mark.parametrize(("finding", "code"), [(CALM, 0), (LOSS, 1)])
def test_faults_that_lose_something_end_with_1(monkeypatch: pytest.MonkeyPatch, finding: Finding, code: int) -> None:
    planted(monkeypatch, faults, Result(findings=[finding]))
    ended, said = invoke("faults")
    assert (ended, finding.fault in said) == (code, True)
    assert json.loads(invoke("faults", "--json")[1])["findings"][0]["fault"] == finding.fault


def booked(problem: str | None) -> books.Books:
    judged = Judged(name="r1", how="told", prompt=1, charged=2, generated=2, in_flight=False, problem=problem)
    return books.Books(judged=[judged], left_over=[], differences=[], strangers=0, deaths={"told": 1}, seconds=1)


@pytest.mark.parametrize(("problem", "code"), [(None, 0), ("r1: 2 rows", 1)])
def test_books_that_do_not_balance_end_with_1(monkeypatch: pytest.MonkeyPatch, problem: str | None, code: int) -> None:
    planted(monkeypatch, books, booked(problem))
    ended, said = invoke("books")
    assert (ended, said.count("r1: 2 rows")) == (code, code)
    assert json.loads(invoke("books", "--json")[1])["strangers"] == 0


def found(cap: int, *, is_planted: bool) -> exactness.Finding:
    asks = [Ask(0, 0.1, 0.1, 1, "admitted"), Ask(0.2, 0.3, 0.3, 1, "admitted"), Ask(0.4, 0.5, 0.5, 1, "refused")]
    names = {"redis": "7.0", "kind": "requests_per_minute", "level": "key", "subject": "key 0"}
    return exactness.Finding(**names, planted=is_planted, verdict=audit_window(asks, cap, 60.0, 1.0), asks=asks)


@pytest.mark.parametrize(
    ("cap", "planted_cap", "says"),
    [
        (2, 1, "Every limit was exact"),
        (1, 1, "1 above the limit"),
        (4, 1, "1 refusals without cause"),
        (2, 2, "a planted fault was not found"),
    ],
)
def test_a_limit_that_is_not_exact_and_a_fault_that_is_not_found_end_with_1(
    monkeypatch: pytest.MonkeyPatch, cap: int, planted_cap: int, says: str
) -> None:
    result = exactness.Result(findings=[found(cap, is_planted=False), found(planted_cap, is_planted=True)])
    planted(monkeypatch, exactness, result)
    ended, said = invoke("exactness")
    assert (ended, says in said) == (0 if says.startswith("Every") else 1, True)
    assert len(json.loads(invoke("exactness", "--json")[1])["findings"]) == 2


@pytest.mark.parametrize(("name", "module"), [("exactness", exactness), ("books", books), ("faults", faults)])
def test_what_stops_a_proof_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch, name: str, module: Any) -> None:
    def fail(*_words: object, **_options: object) -> None:
        raise BenchError("No cat is here.")

    monkeypatch.setattr(module, "run", fail)
    result = CliRunner().invoke(command.app, [name])
    assert (result.exit_code, result.stderr) == (1, "No cat is here.\n")


def test_an_unknown_kind_of_redis_is_named_with_the_known_ones() -> None:
    result = CliRunner().invoke(command.app, ["exactness", "--redis", "5.0"])
    assert (result.exit_code, result.stderr) == (1, "There is no Redis '5.0'; choose from 6.2, 7.0, cluster.\n")
