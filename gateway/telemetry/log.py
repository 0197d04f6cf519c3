"""Logs: JSON lines on standard error. Never content, never secrets: events carry ids, counts, names and durations."""

import asyncio
import contextlib
import logging
import sys
import threading
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import Any, TextIO, cast

import msgspec
import structlog

_encode = msgspec.json.Encoder(enc_hook=str).encode
FLUSH_S = 0.1
MAX_PENDING = 20_000
"""Access lines kept while standard error does not take any; past that they are counted and dropped."""


def configure(level: str) -> None:
    """Send structlog's and the standard library's records to standard error as JSON, from `level` upwards."""
    number = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            lambda _logger, _method, event: _encode(event).decode(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", Lenient(sys.stderr))),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter())
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[handler], force=True)


class Lenient:
    """A stream that drops what it cannot write. Standard error may lie on a disk that is full, and a line about an
    error must not become one: a background reader that says it waits would end by saying so."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            return self._stream.write(text)
        return 0

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


class _JsonFormatter(logging.Formatter):
    """A standard library record in the same shape. Tracebacks tell places, not values: their message is left out."""

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, Any] = {
            "event": record.getMessage() if record.exc_info is None else "exception",
            "level": record.levelname.lower(),
            "logger": record.name,
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z"),
        }
        if record.exc_info and record.exc_info[0] is not None:
            event["exception"] = record.exc_info[0].__name__
            event["at"] = _place(record.exc_info[2])
        return _encode(event).decode()


def _place(traceback: Any) -> str:
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return ""
    return f"{traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno}"


class AccessLine(msgspec.Struct, omit_defaults=True, gc=False):
    """One line a request."""

    event: str
    timestamp_ms: int
    level: str
    request_id: str
    endpoint: str
    status: int
    duration_ms: int
    outcome: str
    code: str | None = None
    model: str | None = None
    organisation: str | None = None
    principal: str | None = None
    key: str | None = None
    stream: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0
    ttft_ms: int | None = None
    upstream: str | None = None
    attempts: int = 0
    finish_reason: str | None = None
    contained: bool = False
    detail: str | None = None


class AccessLog:
    """Lines are gathered on the event loop and written by a thread, a batch at a time: a slow reader of standard error
    never holds a request up."""

    def __init__(self, stream: TextIO | None = None, *, enabled: bool = True) -> None:
        self._stream = stream or sys.stderr
        self._enabled = enabled
        self._lines: list[bytes] = []
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        self._due = False
        self.dropped = 0
        self._writer = threading.Thread(target=self._write, name="access-log", daemon=True)
        if enabled:
            self._writer.start()

    def add(self, line: AccessLine) -> None:
        """Take one line; from the event loop only."""
        if not self._enabled:
            return
        if len(self._lines) >= MAX_PENDING:
            self.dropped += 1
            return
        self._lines.append(_encode(line))
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_later(FLUSH_S, self._flush)

    def _flush(self) -> None:
        self._due = False
        if self._queue.qsize() > 10:  # the writer is stuck: hold on to the lines, bounded above
            self._due = True
            asyncio.get_running_loop().call_later(FLUSH_S, self._flush)
            return
        if self._lines:
            self._queue.put(b"\n".join(self._lines) + b"\n")
            self._lines.clear()

    def close(self) -> None:
        """Write what is left."""
        if self._enabled and self._writer.is_alive():
            self._queue.put(b"\n".join([*self._lines, b""]))
            self._lines.clear()
            self._queue.put(None)
            self._writer.join(2.0)

    def _write(self) -> None:
        while (batch := self._queue.get()) is not None:
            try:
                self._stream.write(batch.decode())
                self._stream.flush()
            except (OSError, ValueError):  # nobody reads it any more
                self.dropped += batch.count(b"\n")
