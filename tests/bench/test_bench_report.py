"""Medians, ratios, the table and the verdict of `bench gateway`."""

import pytest

from lab.bench import report
from lab.bench.catflap import Counts
from lab.bench.measure import Load, Measurement, percentile
from lab.bench.peers import CATFLAP, PLAIN_FLOOR, REDIS_FLOOR
from lab.bench.proof import CUT_OFF, shortcomings
from lab.bench.wrk import WrkReport


def load(requests: float = 1000, *, cpu_ms: float = 0.5, bad_status: float = 0, cores: float = 1.0) -> Load:
    wrk = WrkReport(requests=requests, seconds=1, p50_ms=1, p99_ms=2, bad_status=bad_status, socket_errors=0)
    return Load(wrk=wrk, cpu_ms=cpu_ms, cores={"peer": cores})


def counts(events: int = 100, **other: int) -> Counts:
    known = {"scripts": 2 * events, "ledger_rows": events, "access_lines": events, "other_lines": 3} | other
    return Counts(events=events, **known)


def measured(
    per_second: float = 1000, stream_cpu: float = 2.0, *, bad_status: float = 0, counted: Counts | None = None
) -> Measurement:
    return Measurement(
        start_s=0.5,
        one=load(),
        many=load(per_second, bad_status=bad_status),
        stream=load(100, cpu_ms=stream_cpu),
        first_token_p50_ms=1.5,
        first_token_p99_ms=4,
        memory_mb=50,
        answered=100,
        upstream={"requests": 100},
        counts=counted,
    )


def three(gateway: list[Measurement], redis: list[Measurement], plain: list[Measurement]) -> report.Rounds:
    return {PLAIN_FLOOR: plain, REDIS_FLOOR: redis, CATFLAP: gateway}


def test_a_ratio_is_formed_within_each_round_so_that_a_slow_machine_falls_out_of_it() -> None:
    gateway = [measured(1500), measured(150), measured(3000)]
    floor = [measured(1000), measured(100), measured(1500)]
    found = report.ratio(gateway, floor, lambda m: m.many.wrk.per_second)
    assert (found.median, found.least, found.greatest) == (1.5, 1.5, 2.0)
    assert str(found) == "1.50 (1.50 to 2.00)"


def test_a_floor_that_used_nothing_gives_an_infinite_ratio_not_an_error() -> None:
    assert report.ratio([measured()], [measured(0)], lambda m: m.many.wrk.per_second).median == float("inf")


def test_the_table_holds_one_line_a_peer_with_the_median_of_each_figure() -> None:
    rounds = three([measured(2000), measured(9000), measured(2500)], [measured(1000)], [measured(4000)])
    lines = report.table(rounds).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert [line.split(" | ")[:2] for line in lines[2:]] == [
        ["| plain floor", "4000"],
        ["| redis floor", "1000"],
        ["| catflap", "2500"],
    ]


def test_ratios_are_told_to_both_floors() -> None:
    rounds = three([measured(2000, 1.0)], [measured(1000, 2.0)], [measured(4000, 4.0)])
    lines = report.ratio_table(rounds).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[-1] == "| catflap | 2.00 | 0.50 | 1.00 | 1.00 | 0.50 | 0.25 |"


def test_no_ratio_is_told_to_a_floor_that_was_not_measured() -> None:
    table = report.ratio_table({PLAIN_FLOOR: [measured()], CATFLAP: []})
    assert (
        table.splitlines()[0]
        == "| ratio | requests/s : plain floor | request CPU : plain floor | stream CPU : plain floor |"
    )
    assert "catflap" not in table


def test_the_table_of_cores_leaves_a_gap_for_a_part_that_a_peer_does_not_have() -> None:
    with_redis = measured()
    with_redis.many.cores["redis"] = 0.25
    lines = report.cores_table({PLAIN_FLOOR: [measured()], REDIS_FLOOR: [with_redis]}).splitlines()
    assert lines[0] == "| cores in use, 32 conn. | peer | redis |"
    assert lines[2:] == ["| plain floor | 1.00 |  |", "| redis floor | 1.00 | 0.25 |"]


def test_a_run_beside_other_work_says_so() -> None:
    quiet, busy = measured(), measured()
    quiet.many.cores["other"] = 0.19
    busy.stream.cores["other"] = 0.96
    assert report.disturbance({PLAIN_FLOOR: [quiet]}) == ""
    assert report.disturbance({PLAIN_FLOOR: [quiet, busy]}).startswith(
        "Disturbed: other work used up to 1.0 cores, during 1 of 6 loads."
    )
    assert report.disturbance({}) == ""


def test_a_run_at_the_edge_of_the_budget_is_within_it() -> None:
    found = report.verdict(three([measured(1000, 2.2, counted=counts())], [measured(1000)], [measured(5000, 2.0)]))
    assert found.within_budget
    assert found.problems == ()


@pytest.mark.parametrize(
    ("gateway", "word"),
    [
        (measured(999, 1.0, counted=counts()), "Throughput is 1.00 "),
        (measured(1000, 2.21, counted=counts()), "A stream's CPU is 1.10 "),
        (measured(1000, 1.0, counted=counts(), bad_status=3), "3 requests of the catflap failed."),
        (measured(1000, 1.0, counted=counts(access_lines=99)), "The access log has 99 lines for 100 events."),
    ],
)
def test_the_verdict_names_each_way_out_of_budget(gateway: Measurement, word: str) -> None:
    found = report.verdict(three([gateway], [measured(1000)], [measured(1000, 2.0)]))
    assert not found.within_budget
    assert len(found.problems) == 1
    assert found.problems[0].startswith(word)


def test_a_floor_proves_nothing_and_lacks_nothing() -> None:
    assert shortcomings(measured(counted=None)) == []


@pytest.mark.parametrize("events", [100, 100 + CUT_OFF])
def test_requests_that_wrk_cut_off_count_as_served(events: int) -> None:
    assert shortcomings(measured(counted=counts(events))) == []


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (counts(99), "99 events were recorded for 100 answered requests."),
        (counts(101 + CUT_OFF), "198 events were recorded for 100 answered requests."),
        (counts(ledger_rows=0), "The ledger holds 0 of 100 events."),
        (counts(access_lines=101), "The access log has 101 lines for 100 events."),
        (counts(scripts=100), "Redis ran 100 scripts for 100 requests."),
        (counts(scripts=199), "Redis ran 199 scripts for 100 requests."),
        (counts(scripts=100_000), "Redis ran 100000 scripts for 100 requests."),
    ],
)
def test_a_part_that_was_off_is_named(wrong: Counts, word: str) -> None:
    assert shortcomings(measured(counted=wrong)) == [word]


@pytest.mark.parametrize(("percent", "value"), [(1, 1.0), (50, 2.0), (51, 3.0), (75, 3.0), (99, 4.0), (100, 4.0)])
def test_a_percentile_is_a_value_that_was_measured(percent: int, value: float) -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], percent) == value
