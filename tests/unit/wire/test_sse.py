"""Server-sent events: the same events however the bytes are cut, and a bounded memory."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.errors import UpstreamFailed
from gateway.wire.sse import DONE, Decoder, frame

STREAMS: dict[str, tuple[bytes, list[bytes]]] = {
    "line feeds": (b'data: {"a":1}\n\ndata: {"b":2}\n\n', [b'{"a":1}', b'{"b":2}']),
    "carriage returns and line feeds": (b"data: one\r\n\r\ndata: two\r\n\r\n", [b"one", b"two"]),
    "carriage returns": (b"data: one\r\rdata: two\r\r", [b"one", b"two"]),
    "all three": (b"data: one\r\n\ndata: two\r\r\ndata: three\n\r\n", [b"one", b"two", b"three"]),
    "comments": (b": ping\n\ndata: one\n: inside\n\n:\n\ndata: two\n\n", [b"one", b"two"]),
    "several lines": (b"data: one\ndata: two\ndata:\n\ndata: three\n\n", [b"one\ntwo\n", b"three"]),
    "a byte order mark": (b"\xef\xbb\xbfdata: one\n\ndata: \xef\xbb\xbftwo\n\n", [b"one", b"\xef\xbb\xbftwo"]),
    "other fields": (b"event: x\nid: 7\nretry: 10\ndata: one\ndatum: no\nnothing\n\nid: 8\n\n", [b"one"]),
    "no space, two spaces": (b"data:one\n\ndata:  two\n\n", [b"one", b" two"]),
    "empty data": (b"data\n\ndata:\n\ndata: \n\n", [b"", b"", b""]),
    "more blank lines": (b"\n\n\ndata: one\n\n\n\n\ndata: two\n\n", [b"one", b"two"]),
    "an unfinished end": (b"data: one\n\ndata: two\n", [b"one"]),
    "utf-8": ('data: {"text":"dré 猫"}\n\n'.encode(), ['{"text":"dré 猫"}'.encode()]),
}


def fed(pieces: list[bytes]) -> list[bytes]:
    decoder = Decoder()
    return [event for piece in pieces for event in decoder.feed(piece)]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_split_at_any_one_place_gives_the_same_events(name: str) -> None:
    data, events = STREAMS[name]
    assert fed([data]) == events
    for place in range(len(data) + 1):
        assert fed([data[:place], data[place:]]) == events, place
    assert fed([data[i : i + 1] for i in range(len(data))]) == events


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.sampled_from(sorted(STREAMS)), min_size=1, max_size=4), st.integers(0, 2**32))
def test_streams_split_at_random_ten_times_each_give_the_same_events(names: list[str], seed: int) -> None:
    whole = [STREAMS[name] for name in names if name not in ("a byte order mark", "an unfinished end")]
    data, events = b"".join(stream for stream, _ in whole), [event for _, found in whole for event in found]
    chance = random.Random(seed)
    for _ in range(10):
        places = [chance.randint(0, len(data)) for _ in range(chance.randint(0, 12))]
        assert fed(cut(data, places)) == events


@given(st.lists(st.binary(max_size=30).filter(lambda data: b"\n" not in data and b"\r" not in data), max_size=8))
def test_what_frame_writes_feed_reads(payloads: list[bytes]) -> None:
    assert fed([b"".join(map(frame, payloads))]) == payloads


def test_the_end_mark_is_an_event_of_its_own() -> None:
    assert fed([DONE]) == [b"[DONE]"]


@pytest.mark.parametrize("endless", [b"data: x", b"x", b"data: x\n", b": ping", b"data:\n"])
def test_an_event_that_does_not_end_is_refused_at_the_bound(endless: bytes) -> None:
    decoder = Decoder(max_event_bytes=1000)
    with pytest.raises(UpstreamFailed):
        for _ in range(1001):
            decoder.feed(endless)


def test_comments_for_ever_are_no_event_and_fill_no_buffer() -> None:
    decoder = Decoder(max_event_bytes=1000)
    assert [decoder.feed(b": ping\n\n") for _ in range(1000)] == [[]] * 1000
    assert decoder.feed(b"data: one\n\n") == [b"one"]
