"""`catflap lab bench quota` at its smallest: counts, and that its tables tell them. Times are for people to read."""

import json

import pytest
from typer.testing import CliRunner

from gateway.commands import lab as command
from lab.bench import quota
from lab.bench.errors import BenchError
from lab.bench.quota import Result
from lab.bench.quota_report import Cell, Memory, Step, markdown


@pytest.fixture(scope="module")
def result() -> Result:
    return quota.run(rounds=1, requests=20, keys=[200, 400], principals=300)


def test_an_admission_is_one_round_trip_and_a_settlement_another_however_many_limits_bind(result: Result) -> None:
    (cells,) = result.rounds
    assert [(cell.limits, cell.keys) for cell in cells] == [(n, keys) for n in (1, 4, 16) for keys in (200, 400)]
    for cell in cells:
        for step in (cell.admit, cell.settle):
            assert (step.scripts, step.round_trips) == (1, 1)


def test_memory_is_told_for_each_plan_and_more_limits_weigh_more(result: Result) -> None:
    assert [one.limits for one in result.memory] == [1, 4, 16]
    weights = [one.quiet_bytes for one in result.memory]
    assert 0 < weights[0] < weights[1] < weights[2]
    assert all(one.busy_bytes > one.quiet_bytes and one.in_flight_bytes > 0 for one in result.memory)


def test_what_is_printed_is_json_or_three_tables(monkeypatch: pytest.MonkeyPatch, result: Result) -> None:
    monkeypatch.setattr(quota, "run", lambda **_options: result)
    said = CliRunner().invoke(command.app, ["bench", "quota", "--json"])
    assert json.loads(said.stdout) == json.loads(result.json())
    lines = CliRunner().invoke(command.app, ["bench", "quota"]).stdout.splitlines()
    assert sum(line.startswith("| ---:") for line in lines) == 3


def test_fewer_keys_than_callers_are_refused_with_a_sentence() -> None:
    with pytest.raises(BenchError, match="10 keys are fewer than the 200 callers who ask; give more"):
        quota.run(rounds=1, requests=1, keys=[10])


def test_the_ratio_of_many_keys_to_few_is_formed_within_each_round() -> None:
    def cell(keys: int, us: float) -> Cell:
        step = Step(median_us=us, p99_us=us, redis_us=us, scripts=1, round_trips=1)
        return Cell(limits=1, keys=keys, admit=step, settle=step, together_us=us)

    rounds = [[cell(1000, 10), cell(10**6, 11)], [cell(1000, 100), cell(10**6, 110)], [cell(1000, 10), cell(10**6, 30)]]
    memory = [Memory(limits=1, quiet_bytes=1, busy_bytes=2, in_flight_bytes=3)]
    assert "| 1 limits | 1.10 (1.10 to 3.00) |" in markdown(rounds, memory)
