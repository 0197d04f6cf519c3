"""The comparison of the roads runs, and its table has a row a figure."""

import pytest

from lab.bench import transports
from lab.bench.transports import Figures, Result
from tests.integration.embedded_fixtures import need_triton


def figures(chunk_us: float) -> Figures:
    return Figures(
        chunk_us=chunk_us, request_us=1, first_p50_ms=1, first_p99_ms=1, prefill_stop_ms=1, decode_tokens=0, unread_mb=0
    )


def test_the_table_tells_the_median_of_the_rounds_for_each_road() -> None:
    table = Result({"http": [figures(1), figures(5), figures(2)], "grpc": [figures(7)]}).markdown().splitlines()
    assert table[0] == "| median of rounds | http | grpc |"
    assert table[2] == "| chunk_us | 2 | 7 |"
    assert len(table) == 2 + len(Figures.__struct_fields__)


@pytest.mark.slow
def test_one_round_measures_both_roads() -> None:
    need_triton()
    result = transports.run(rounds=1, say=print)
    (http,), (grpc,) = result.rounds["http"], result.rounds["grpc"]
    assert grpc.prefill_stop_ms < 50 < http.prefill_stop_ms
    assert http.chunk_us > 0 < grpc.chunk_us
