"""Two peppers and two secrets: what opens, and what is written anew."""

from typing import Any

import pytest

from gateway.core.caller import Caller
from gateway.identity import pepper as module
from gateway.identity.cache import Known, Secret
from gateway.identity.keys import digest, make_token
from gateway.identity.pepper import Move, Moves, Peppers, fingerprint

NEW, OLD, OTHER = b"the new pepper, made up", b"the old pepper, made up", b"another pepper, made up"
KEY = "key_" + "0" * 17
FIRST, SECOND, STRANGE = (make_token(KEY, bytes([number]) * 24) for number in (1, 2, 3))


def known(*secrets: Secret) -> Known:
    caller = Caller(organisation="org_1", project="proj_1", principal="prin_1", key=KEY, plan="free")
    return Known(caller, secrets, None, 7, 0.0)


def secret(token: str, pepper: bytes, until_ms: int | None = None, *, told: bool = True) -> Secret:
    return Secret(digest(pepper, token), fingerprint(pepper) if told else None, until_ms)


def test_a_secret_under_the_current_pepper_opens_and_stays_as_it_is() -> None:
    peppers, entry = Peppers(NEW, OLD), known(secret(FIRST, NEW))
    assert peppers.opens(entry, FIRST, lambda: 0)
    assert peppers.opened(entry, FIRST, 0) is entry
    assert len(peppers.moves) == 0


def test_a_secret_under_the_old_pepper_opens_and_moves() -> None:
    peppers, entry = Peppers(NEW, OLD), known(secret(FIRST, OLD))
    assert not peppers.opens(entry, FIRST, lambda: 0)  # the hot path makes one digest, no more
    opened = peppers.opened(entry, FIRST, 0)
    assert opened is not None
    assert peppers.opens(opened, FIRST, lambda: 0)
    assert (opened.caller, opened.epoch, opened.loaded_at) == (entry.caller, entry.epoch, entry.loaded_at)
    assert len(peppers.moves) == 1


def test_a_secret_whose_pepper_was_never_written_down_is_written_down_on_use() -> None:
    for pepper in (NEW, OLD):
        peppers = Peppers(NEW, OLD)
        assert peppers.opened(known(secret(FIRST, pepper, told=False)), FIRST, 0) is not None
        assert len(peppers.moves) == 1


def test_no_other_pepper_and_no_other_token_opens() -> None:
    for peppers in (Peppers(NEW, OLD), Peppers(NEW)):
        for entry in (known(secret(FIRST, OTHER)), known(secret(SECOND, NEW)), known()):
            assert not peppers.opens(entry, FIRST, lambda: 0)
            assert peppers.opened(entry, FIRST, 0) is None
    assert Peppers(NEW).opened(known(secret(FIRST, OLD)), FIRST, 0) is None


@pytest.mark.parametrize("pepper", [NEW, OLD])
def test_the_secret_before_a_rotation_opens_until_its_overlap_ends(pepper: bytes) -> None:
    peppers, entry = Peppers(NEW, OLD), known(secret(SECOND, NEW), secret(FIRST, pepper, 1000))
    assert peppers.opened(entry, FIRST, 999) is not None
    assert peppers.opened(entry, FIRST, 1000) is None
    assert not peppers.opens(entry, FIRST, lambda: 1000)
    for at in (999, 1000):
        assert peppers.opens(entry, SECOND, lambda at=at: at)  # type: ignore[misc]
    assert peppers.opened(entry, STRANGE, 0) is None


def test_moving_one_secret_leaves_the_other_and_its_end_alone() -> None:
    peppers, entry = Peppers(NEW, OLD), known(secret(SECOND, NEW), secret(FIRST, OLD, 1000))
    opened = peppers.opened(entry, FIRST, 0)
    assert opened is not None
    assert opened.secrets == (secret(SECOND, NEW), secret(FIRST, NEW, 1000))


def test_moves_that_wait_are_bounded_and_not_doubled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 2)
    moves = Moves("f")
    for key in ("a", "a", "b", "c"):
        moves.add(Move(key, b"was", b"now"))
    assert len(moves) == 2


def test_a_fingerprint_tells_peppers_apart_and_gives_none_away() -> None:
    prints: set[Any] = {fingerprint(pepper) for pepper in (NEW, OLD, OTHER)}
    assert len(prints) == 3
    for shown in prints:
        assert len(shown) == 16
        assert not any(shown.encode() in pepper for pepper in (NEW, OLD, OTHER))
