"""When a program is started again, and which line of its log is shown."""

from pathlib import Path

import pytest

from gateway.embedded.restarts import Backoff
from gateway.embedded.service import LogReader, last_line
from gateway.embedded.triton_log import decisive_line, stub_complaint


def test_waits_double_from_half_a_second_to_thirty() -> None:
    backoff = Backoff()
    assert [backoff.after(0) for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]


def test_a_healthy_minute_begins_anew() -> None:
    backoff = Backoff()
    for _ in range(5):
        backoff.after(59.9)
    assert backoff.after(60) == 0.5
    assert backoff.after(1) == 1


def test_the_log_of_one_life_begins_where_the_one_before_ended(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("old\n")
    reader = LogReader(log)
    with log.open("a") as file:
        file.write("new\n")
    assert (reader.new_text(), reader.new_text(), reader.text()) == ("new\n", "", "new\n")


def test_a_log_that_is_not_there_yet_is_read_from_its_beginning(tmp_path: Path) -> None:
    reader = LogReader(tmp_path / "log")
    (tmp_path / "log").write_text("first\n")
    assert reader.new_text() == "first\n"


def test_the_last_line_that_says_something_is_found() -> None:
    assert last_line("one\n two \n\n") == "two"
    assert last_line("") == "it said nothing"


LOAD_FAILURE = """\
E1122 19:39:32.720991 4748 server.cc:241] "CudaDriverHelper has not been initialized."
I1122 19:39:32.722956 4748 model_lifecycle.cc:472] "loading: demo:1"
E1122 19:39:33.1 4748 model_lifecycle.cc:642] "failed to load 'demo' version 1: Internal: FileNotFoundError: corpus.txt"
Error: Failed to initialize NVML
W1122 19:39:35.038158 4748 metrics.cc:798] "DCGM unable to start: DCGM initialization error"
I1122 19:39:35.038433 4748 server.cc:345] "Timeout 3: Found 0 live models and 0 in-flight non-inference requests"
error: creating server: Internal - failed to load all models
"""


@pytest.mark.parametrize(
    ("log", "line"),
    [
        (LOAD_FAILURE, "failed to load 'demo' version 1: Internal: FileNotFoundError: corpus.txt"),
        (
            "tritonserver: error while loading shared libraries: libb64.so.0d: cannot open shared object file",
            "error while loading shared libraries: libb64.so.0d: cannot open shared object file",
        ),
        ("I1 a] b\nerror: creating server: Invalid argument\n", "error: creating server: Invalid argument"),
        ("Error: Failed to initialize NVML\nKilled\n", "Killed"),
    ],
)
def test_the_line_that_tells_why_triton_ended_is_found_in_its_log(log: str, line: str) -> None:
    assert decisive_line(log) == line


def test_a_complaint_about_a_stub_is_seen() -> None:
    said = "E1 python_be.cc:1] \"Stub process 'demo_0_0' is not healthy.\""
    assert stub_complaint(said) == "Stub process 'demo_0_0' is not healthy."
    assert stub_complaint("I1 all is well") is None
