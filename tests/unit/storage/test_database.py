"""URLs and tables."""

from pathlib import Path

import pytest
from sqlalchemy import make_url

import gateway
from gateway.core.event import RequestEvent
from gateway.storage import usage
from gateway.storage.database import ASYNC_DRIVERS, SYNC_DRIVERS, connect_args, driver_url
from gateway.storage.tables import METADATA, request_event


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("sqlite:////data/catflap.db", "sqlite+aiosqlite"),
        ("sqlite+aiosqlite:///catflap.db", "sqlite+aiosqlite"),
        ("postgresql://u@h/d", "postgresql+psycopg"),
        ("postgres://u@h/d", "postgresql+psycopg"),
        ("postgresql+asyncpg://u@h/d", "postgresql+psycopg"),
    ],
)
def test_a_plain_url_gets_the_driver_that_we_use(url: str, driver: str) -> None:
    assert driver_url(url, ASYNC_DRIVERS).drivername == driver
    assert driver_url(url, SYNC_DRIVERS).drivername == driver.replace("+aiosqlite", "")


@pytest.mark.parametrize(
    "url",
    ["mysql://u:secret@h/d", "no url, secret", "postgresql://u:secret@h:x/d", "sqlite://", "sqlite:///:memory:", ""],
)
def test_a_url_that_is_no_use_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(ValueError, match=r"database|SQLite") as refused:
        driver_url(url, ASYNC_DRIVERS)
    assert "secret" not in str(refused.value)


def test_every_wait_for_postgresql_is_bounded() -> None:
    arguments = connect_args(make_url("postgresql://h/d"), 5.0)
    assert arguments["connect_timeout"] == 5
    assert "statement_timeout=5000" in arguments["options"]
    assert "lock_timeout=5000" in arguments["options"]


def test_the_ledgers_columns_are_the_fields_of_the_event() -> None:
    assert {column.name for column in request_event.columns} == set(RequestEvent.__struct_fields__)


def test_every_constraint_and_index_has_a_name() -> None:
    for table in METADATA.tables.values():
        assert all(constraint.name for constraint in table.constraints)
        assert all(index.name for index in table.indexes)


def test_only_the_bill_adds_up_and_it_reads_roll_ups() -> None:
    """No sum over events is ever in a request's way, because there is none."""
    package = Path(gateway.__file__).parent
    summing = {path.relative_to(package) for path in package.rglob("*.py") if "func.sum" in path.read_text()}
    assert summing == {Path("storage/usage.py")}
    assert request_event not in vars(usage).values()
