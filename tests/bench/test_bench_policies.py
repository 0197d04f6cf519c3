"""`catflap lab bench policies` at its smallest: the rules are in force. Times are for people to read."""

import json

import pytest
from typer.testing import CliRunner

from gateway.commands import lab as command
from gateway.rules.load import examine
from lab.bench import policies
from lab.bench.policies import DEMO_LIKE, INSTANT, RULES, Result, Round, nothing, rules, run


def test_the_hundred_policies_are_good_ones_and_ten_of_them_ask_about_words() -> None:
    files = {f"rules/{name}": text for name, text in rules().items()}
    examined = examine(files)
    assert (len(files), examined.findings, examined.examples) == (RULES, (), 2 * RULES)
    always = [text for text in files.values() if "user_text" in text and "principal.state" not in text]
    assert len(always) == 10
    assert examine({f"rules/{name}": text for name, text in nothing().items()}).ruleset is not None


def test_both_gateways_answer_the_same_and_only_one_has_the_rules_in_force() -> None:
    result = run(rounds=1, requests=3)
    assert set(result.rounds) == {DEMO_LIKE, INSTANT}
    assert all(len(rounds) == 1 and rounds[0].none_ms > 0 < rounds[0].loaded_ms for rounds in result.rounds.values())


@pytest.mark.parametrize(("loaded", "code", "says"), [(104.0, 0, "Within budget"), (106.0, 1, "Out of budget")])
def test_the_check_looks_at_the_median_on_the_demo_like_upstream_alone(
    monkeypatch: pytest.MonkeyPatch, loaded: float, code: int, says: str
) -> None:
    usual = [Round(none_ms=100, loaded_ms=loaded)] * 2 + [Round(none_ms=100, loaded_ms=150)]
    result = Result(requests=9, rounds={DEMO_LIKE: usual, INSTANT: [Round(none_ms=1, loaded_ms=2)]})
    monkeypatch.setattr(policies, "run", lambda **_options: result)
    said = CliRunner().invoke(command.app, ["bench", "policies", "--check"])
    assert (said.exit_code, says in said.stdout, "2.000 (2.000 to 2.000)" in said.stdout) == (code, True, True)
    assert json.loads(CliRunner().invoke(command.app, ["bench", "policies", "--json"]).stdout)["requests"] == 9
