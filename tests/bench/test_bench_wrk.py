"""The load driver: what it prints is read, and its absence is said in one sentence."""

from pathlib import Path

import pytest

from lab.bench import traffic, wrk
from lab.bench.errors import BenchError
from lab.bench.processes import mock_triton

OUTPUT = """\
Running 8s test @ http://127.0.0.1:40123/v1/chat/completions
  1 threads and 32 connections
  Requests/sec:   2931.50

RESULT {"p99_ms":28.974000,"requests":23452.000000,"seconds":8.000000,"bad_status":2.000000,"p50_ms":10.606000,\
"socket_errors":1.000000}
"""


def test_the_result_line_is_read_whatever_the_order_of_its_fields() -> None:
    report = wrk.parse(OUTPUT)
    assert (report.requests, report.p50_ms, report.p99_ms) == (23452, 10.606, 28.974)
    assert report.per_second == 2931.5
    assert report.failures == 3


def test_a_run_of_no_length_has_no_rate() -> None:
    report = wrk.WrkReport(requests=0, seconds=0, p50_ms=0, p99_ms=0, bad_status=0, socket_errors=0)
    assert report.per_second == 0


@pytest.mark.parametrize(
    ("output", "word"),
    [
        ("", "no result line"),
        ("RESULT {", "cannot be read"),
        ('RESULT {"requests":1}', "cannot be read"),
        ('RESULT {"requests":nan}', "cannot be read"),
    ],
)
def test_output_without_a_whole_result_is_refused(output: str, word: str) -> None:
    with pytest.raises(BenchError, match=word):
        wrk.parse(output)


def test_a_missing_wrk_is_said_in_one_sentence_that_names_the_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BenchError, match=r"Debian's package wrk\.$"):
        wrk.find_wrk()


def test_the_real_wrk_runs_our_script_against_the_mock(tmp_path: Path) -> None:
    try:
        wrk.find_wrk()
    except BenchError as problem:
        pytest.skip(str(problem))
    body = tmp_path / "body.json"
    body.write_bytes(traffic.chat(stream=False))
    with mock_triton(tmp_path) as (_process, port):
        url = f"http://127.0.0.1:{port}/v2/models/mock/generate_stream"
        good = wrk.drive(url, "bench", body, connections=2, seconds=1)
        bad = wrk.drive(f"http://127.0.0.1:{port}/nowhere", "bench", body, connections=2, seconds=1)
    assert good.requests > 0
    assert good.failures == 0
    assert bad.bad_status == bad.requests > 0
