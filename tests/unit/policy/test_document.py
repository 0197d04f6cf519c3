"""Policy files are read by the core rules of YAML 1.2, with the line of everything, in bounded time."""

import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.document import MAX_BYTES, read_document
from gateway.policy.problem import PolicyError

PLAIN = st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.text("abcxyz 019:-#'\"{}[]é\n", max_size=12)
VALUES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abcd", min_size=1), inner, max_size=4)
)


@given(VALUES)
def test_what_a_yaml_library_writes_is_read_as_the_same_value(value: object) -> None:
    data = yaml.safe_dump(value, allow_unicode=True).encode()
    assert read_document(data, "f.yaml").value == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("off", "off"),
        ("NO", "NO"),
        ("yes", "yes"),
        ("2026-11-22", "2026-11-22"),
        ("True", True),
        ("~", None),
        ("", None),
        ("12", 12),
        ("-1.5e3", -1500.0),
        (".5", 0.5),
        ("1_000", "1_000"),
        ("0x10", "0x10"),
        ("'12'", "12"),
        ('"true"', "true"),
        ("! 12", "12"),
    ],
)
def test_words_are_words_and_numbers_are_numbers(text: str, value: object) -> None:
    found = read_document(f"a: {text}".encode(), "f.yaml").value
    assert found == {"a": value}
    assert isinstance(found, dict)
    assert type(found["a"]) is type(value)


def test_every_value_has_its_line_and_a_blocks_text_begins_on_the_next() -> None:
    document = read_document(b"a: 1\nb:\n  - x\n  - {c: 2}\nm: |\n  first\n  second\n", "f.yaml")
    assert [document.line(path) for path in (("a",), ("b", 1), ("b", 1, "c"), ("m",))] == [1, 4, 4, 6]
    assert document.line(("b", 1, "nothing", 7)) == 4  # the nearest that there is
    assert document.line(("nothing",)) == 1


@pytest.mark.parametrize(
    ("data", "line", "said"),
    [
        (b"", 1, "empty"),
        (b"# only a comment\n", 1, "empty"),
        (b"a: 1\nb: [", 3, "YAML"),
        (b"a: &x 1\nb: *x", 2, "aliases"),
        (b"a: &x [*x]", 1, "aliases"),
        (b"a: 1\n---\nb: 2", 2, "second document"),
        (b"a: 1\nb: \xff", 2, "UTF-8"),
        (b"a: !!python/object:os.system {}", 1, "tags"),
        (b"a: !!int 1", 1, "tags"),
        (b"a: !thing 1", 1, "tags"),
        (b"a: 1\na: 2", 2, "twice"),
        (b"? [a]\n: 1", 1, "key"),
        (b"a: \x00", 1, "YAML"),
        (b"[" * 60_000, 1, "deeply"),
        (b"{a: " * 30_000, 1, "deeply"),
        (b"[" + b"1," * 25_000 + b"1]", 1, "many parts"),
        (b"a: 1\n" + b"#" * MAX_BYTES, 2, "bytes"),
        (b"a: |\n" + b"  x\n" * 300_000, 32_768, "1,200,005 bytes"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_line_in_bounded_time(data: bytes, line: int, said: str) -> None:
    began = time.thread_time()
    with pytest.raises(PolicyError, match=said) as told:
        read_document(data, "rules/f.yaml")
    assert time.thread_time() - began < 10, "what is not bounded takes minutes; machines differ"
    assert told.value.line == line
    assert str(told.value).startswith(f"rules/f.yaml, line {line}: ")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_a_sentence(data: bytes) -> None:
    try:
        read_document(data, "f.yaml")
    except PolicyError as problem:
        assert problem.line >= 1
