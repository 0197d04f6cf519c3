"""A log line that cannot be written is lost, and nothing else is."""

import errno
import io
from typing import cast

import pytest
import structlog

from gateway.telemetry import log


class Full(io.StringIO):
    """Standard error on a disk that is full."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def flush(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_line_that_a_full_disk_refuses_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", Full())
    try:
        log.configure("info")
        structlog.get_logger().error("ledger_waits", dependency="redis")
    finally:
        structlog.reset_defaults()


def test_a_line_that_can_be_written_is() -> None:
    taken = io.StringIO()
    stream = log.Lenient(cast("io.TextIOWrapper", taken))
    stream.write("one\n")
    stream.flush()
    assert taken.getvalue() == "one\n"
