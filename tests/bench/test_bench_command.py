"""`catflap lab`: the command line of the instruments."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.commands import lab as command
from lab.bench import gateway
from lab.bench.errors import BenchError


def invoke(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(command.app, words)
    return result.exit_code, result.stdout, result.stderr


def answer(result: gateway.Result) -> Callable[..., gateway.Result]:
    return lambda **_options: result


def test_an_install_without_the_instruments_says_so_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lab.bench.gateway", None)
    code, out, err = invoke("bench", "gateway")
    assert (code, out) == (1, "")
    assert err == "The instruments are not installed here: the module lab.bench.gateway is missing.\n"


def test_what_stops_a_benchmark_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_options: object) -> gateway.Result:
        raise BenchError("No cat is here.")

    monkeypatch.setattr(gateway, "run", fail)
    assert invoke("bench", "gateway") == (1, "", "No cat is here.\n")


def test_an_unknown_peer_is_named_with_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "find_wrk", lambda: "wrk")
    code, _out, err = invoke("bench", "gateway", "--only", "dog")
    assert code == 1
    assert err == "There is no peer 'dog'; choose from plain floor, redis floor, catflap.\n"


def test_json_goes_to_standard_output_and_to_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gateway, "run", answer(gateway.Result(rounds={}, verdict=None)))
    code, out, _err = invoke("bench", "gateway", "--json", "--out", str(tmp_path / "run.json"))
    assert code == 0
    assert json.loads(out) == json.loads((tmp_path / "run.json").read_text()) == {"rounds": {}, "verdict": None}


def test_a_check_without_a_verdict_within_budget_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "run", answer(gateway.Result(rounds={}, verdict=None)))
    assert invoke("bench", "gateway")[0] == 0
    assert invoke("bench", "gateway", "--check")[0] == 1
