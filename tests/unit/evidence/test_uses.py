"""When uses of canaries are written: first ones at once, later ones by the hour."""

from gateway.evidence import uses as module
from gateway.evidence.uses import HOUR_MS, Uses
from gateway.storage.canaries import Given

WORDS = ("a", "b")


def test_a_first_use_is_due_at_once_and_later_ones_after_an_hour() -> None:
    uses = Uses()
    assert uses.note("prin_1", WORDS, 1000)
    first = uses.due(1000, 10)
    assert first == [Given("prin_1", WORDS, 1000, 1000)]
    uses.written(first, 1000)
    assert not uses.note("prin_1", WORDS, 2000)
    assert uses.due(HOUR_MS, 10) == []
    assert uses.due(HOUR_MS + 60_000, 10) == [Given("prin_1", WORDS, 1000, 2000)]


def test_what_the_database_has_is_not_written_again() -> None:
    uses = Uses()
    uses.note("prin_1", WORDS, 1000)
    uses.written(uses.due(1000, 10), 1000)
    assert uses.due(10 * HOUR_MS, 10) == []
    assert uses.unwritten() == []


def test_a_use_during_the_write_is_not_lost() -> None:
    uses = Uses()
    uses.note("prin_1", WORDS, 1000)
    due = uses.due(1000, 10)
    uses.note("prin_1", WORDS, 3000)
    uses.written(due, 1000)
    assert uses.unwritten() == [Given("prin_1", WORDS, 1000, 3000)]


def test_memory_is_bounded_and_whoever_was_forgotten_is_noted_anew(monkeypatch: object) -> None:
    uses = Uses()
    for number in range(module.MOST + 5):
        uses.note(f"prin_{number}", WORDS, 1000)
    assert len(uses.unwritten()) == module.MOST
    assert len(uses.due(1000, 2 * module.MOST)) == module.MOST
    assert uses.note("prin_0", WORDS, 1000)
