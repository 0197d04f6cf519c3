"""Sealed evidence: bounded, unreadable without its key, and no other request's."""

import msgspec
import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from gateway.commands.evidence import plain, pretty
from gateway.evidence.content import MAX_ANSWERS, MAX_TEXT, Content, Evidence, Text, bounded
from gateway.evidence.seal import Seal, Unreadable, _key_from

NEW, OLD = "a new secret, made up", "an old secret, made up"


def one(asked: bytes = b"{}", sent: bytes = b"{}", answers: tuple[str, ...] = ()) -> Evidence:
    return Evidence("req_1", "org_1", "prin_1", 1, asked, sent, answers)


CONTENT = Content(Text("asked"), Text("sent"), (Text("answered"),))


def test_what_was_sealed_is_opened_again() -> None:
    seal = Seal([NEW])
    assert seal.open("req_1", "prin_1", seal.close("req_1", "prin_1", CONTENT)) == CONTENT


def test_the_first_secret_seals_and_every_secret_opens() -> None:
    before, now = Seal([OLD]), Seal([NEW, OLD])
    assert now.open("r", "p", before.close("r", "p", CONTENT)) == CONTENT
    assert Seal([NEW]).open("r", "p", now.close("r", "p", CONTENT)) == CONTENT


def test_without_its_key_it_says_which_setting_is_missing() -> None:
    with pytest.raises(Unreadable, match="CATFLAP_EVIDENCE_KEY_OLD"):
        Seal([NEW]).open("r", "p", Seal([OLD]).close("r", "p", CONTENT))


@pytest.mark.parametrize(("request_id", "principal"), [("other", "p"), ("r", "other")])
def test_a_row_that_was_put_in_anothers_place_is_not_shown(request_id: str, principal: str) -> None:
    seal = Seal([NEW])
    with pytest.raises(Unreadable, match="tampered"):
        seal.open(request_id, principal, seal.close("r", "p", CONTENT))


def test_a_changed_byte_is_noticed() -> None:
    seal = Seal([NEW])
    body = bytearray(seal.close("r", "p", CONTENT))
    body[40] ^= 1
    with pytest.raises(Unreadable):
        seal.open("r", "p", bytes(body))


@pytest.mark.parametrize("inside", [b"", b"no zlib", b"x\x9cK", msgspec.msgpack.encode(["r"])])
def test_what_is_no_evidence_under_the_right_key_is_told_in_a_sentence(inside: bytes) -> None:
    with pytest.raises(Unreadable, match="another version"):
        Seal([NEW]).open("r", "p", Fernet(_key_from(NEW)).encrypt(inside))


def test_a_seal_without_a_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Seal([])


def test_texts_are_cut_and_what_is_missing_is_counted() -> None:
    long = "ä" * (MAX_TEXT + 7)
    content = bounded(one(b"x" * (MAX_TEXT + 3), b"y", (long, "short", *["z"] * MAX_ANSWERS))).content()
    assert content.asked == Text("x" * MAX_TEXT, 3)
    assert content.sent == Text("y")
    assert content.answers[:2] == (Text("ä" * MAX_TEXT, 7), Text("short"))
    assert len(content.answers) == MAX_ANSWERS
    assert content.answers_left_out == 2


def test_the_largest_content_is_opened_again() -> None:
    seal = Seal([NEW])
    wild = one(b"\xff" * MAX_TEXT, b"\xfe" * MAX_TEXT, ("\U0001f408" * MAX_TEXT,) * MAX_ANSWERS)
    content = bounded(wild).content()
    assert seal.open("r", "p", seal.close("r", "p", content)) == content


@given(st.binary(max_size=20), st.lists(st.text(st.characters(), max_size=5), max_size=3))
def test_any_bytes_and_any_texts_can_be_sealed(asked: bytes, answers: list[str]) -> None:
    seal = Seal([NEW])
    content = bounded(one(asked, asked, (*answers, "\ud800"))).content()
    assert seal.open("r", "p", seal.close("r", "p", content)) == content


def test_what_a_suspect_wrote_does_not_command_the_terminal() -> None:
    assert plain("a\x1b[2J\u202eb\n\tc") == "a\\x1b[2J\\u202eb\n\tc"
    assert pretty('{"a":"\\u001b[2J"}') == '{\n  "a": "\\u001b[2J"\n}'
    assert pretty('{"a": cut') == '{"a": cut'
