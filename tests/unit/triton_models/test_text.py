"""What may be sent of an output, and when."""

from hypothesis import given
from hypothesis import strategies as st
from tinyllm.text import OutputText


def feed_all(output: OutputText, data: bytes) -> list[str]:
    return [output.feed(bytes((byte,))) for byte in data] + [output.finish()]


def test_a_stop_string_that_comes_byte_by_byte_is_never_seen() -> None:
    output = OutputText((" END",))
    pieces = feed_all(output, b"the END of it")[: len(b"the END")]
    assert "".join(pieces) == "the"
    assert output.stopped


def test_text_that_only_looked_like_a_stop_string_comes_late_but_whole() -> None:
    output = OutputText(("abcd",))
    assert [output.feed(bytes((byte,))) for byte in b"xabce"] == ["x", "", "", "", "abce"]


def test_what_was_held_back_comes_when_the_output_ends() -> None:
    output = OutputText(("abcd",))
    assert "".join(feed_all(output, b"zabc")) == "zabc"
    assert not output.stopped


def test_the_earliest_of_several_stop_strings_wins() -> None:
    output = OutputText(("cd", "bc"))
    assert output.feed(b"abcd") == "a"


def test_a_character_of_several_bytes_is_sent_whole() -> None:
    output = OutputText()
    assert [output.feed(bytes((byte,))) for byte in "ä€".encode()] == ["", "ä", "", "", "€"]


def test_an_incomplete_character_at_the_end_becomes_a_replacement_character() -> None:
    output = OutputText()
    output.feed("€".encode()[:2])
    assert output.finish() == "\ufffd"


@given(st.text(alphabet="abc€", max_size=30), st.lists(st.text(alphabet="abc€", min_size=1, max_size=4), max_size=3))
def test_the_pieces_are_the_text_before_the_first_stop_string_however_it_is_cut(text: str, stops: list[str]) -> None:
    output = OutputText(tuple(stops))
    sent = ""
    for byte in text.encode():
        sent += output.feed(bytes((byte,)))
        if output.stopped:
            break
    sent += output.finish()
    # Reading byte by byte, the stop string that is complete first is the one that ends the output.
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    if not ends:
        assert sent == text
    else:
        first = min(end for end, _ in ends)
        assert sent == text[: min(start for end, start in ends if end == first)]
