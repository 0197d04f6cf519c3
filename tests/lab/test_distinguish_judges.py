"""What judges the distinguisher's answers: it finds what is there, and nothing that is not."""

import random

import pytest

from lab.distinguish.asks import Ask, Draw, Rooms
from lab.distinguish.attack import schedule
from lab.distinguish.channels import Comparison, in_order, observe
from lab.distinguish.classify import judge, wilson
from lab.distinguish.client import Answer
from lab.distinguish.features import FEATURES, features
from lab.distinguish.kinds import BAD, ORDINARY, SWEEP
from lab.distinguish.place import triton_models
from lab.distinguish.proof import Sent, prove
from lab.distinguish.upstream import BLOCK, PrefixCache, Received

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
    b"x-request-id: req_%032x\r\nopenai-processing-ms: %d\r\nx-ratelimit-remaining-requests: %d"
)
BODY = (
    b'{"object":"chat.completion","id":"chatcmpl-%032x","created":%d,"choices":[{"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":%d,"completion_tokens":3}}'
)


def answer(number: int = 1, *, tokens: int = 10, left: int = 5, head: bytes = b"", body: bytes = b"") -> Answer:
    body = body or BODY % (number, 1_700_000_000 + number, tokens)
    head = head or HEAD % (len(body), number, number, left)
    return Answer(head=head, body=body, first=0.001, token=0.002, last=0.003, reads=(0.001, 0.003), chunks=0)


def differing(one: Answer, other: Answer) -> set[str]:
    comparison = Comparison()
    comparison.add(0, "a kind", observe(one), observe(other))
    return {channel.name for channel in comparison.channels() if channel.differing}


def test_ids_times_and_the_processing_time_are_no_difference() -> None:
    assert differing(answer(1), answer(2)) == set()


def test_a_token_in_the_usage_is_found_in_the_usage() -> None:
    assert differing(answer(tokens=10), answer(tokens=11)) == {"usage", "body"}


def test_a_request_that_counts_twice_is_found_in_the_limits() -> None:
    assert differing(answer(left=5), answer(left=4)) == {"limits told"}


def test_headers_are_held_to_each_other_in_set_order_and_case() -> None:
    lines = (HEAD % (len(answer().body), 1, 1, 5)).split(b"\r\n")
    swapped = b"\r\n".join([lines[0], lines[2], lines[1], *lines[3:]])
    assert differing(answer(), answer(head=swapped)) == {"header order", "header case"}
    capital = b"\r\n".join(lines).replace(b"content-type", b"Content-Type")
    assert differing(answer(), answer(head=capital)) == {"header case", "header values"}
    assert "header set" in differing(answer(), answer(head=b"\r\n".join(lines) + b"\r\nx-more: 1"))


def test_the_order_of_keys_and_a_wrong_length_are_found() -> None:
    other = BODY.replace(b'"prompt_tokens":%d,"completion_tokens":3', b'"completion_tokens":3,"prompt_tokens":%d')
    assert "body keys" in differing(answer(), answer(body=other % (1, 1_700_000_001, 10)))
    wrong = HEAD % (len(answer().body) + 1, 1, 1, 5)
    assert differing(answer(), answer(head=wrong)) == {"header values"}


def test_the_first_difference_of_a_channel_is_told_with_its_place_and_all_kinds_are_named() -> None:
    comparison = Comparison()
    for number, kind in enumerate(("same", "longer", "longer", "shorter")):
        comparison.add(number, kind, {"frames": 3}, {"frames": 3 if kind == "same" else 4})
    (channel,) = comparison.channels()
    assert (channel.compared, channel.differing, channel.kinds) == (4, 3, ("longer", "shorter"))
    assert channel.first is not None
    assert (channel.first.pair, channel.first.clean, channel.first.contained) == (1, "3", "4")


def test_frames_of_several_choices_are_put_in_order_and_those_of_one_are_left_alone() -> None:
    several = [b'data: {"index":1}', b'data: {"index":0}', b'data: {"index":1,"x":1}', b"data: [DONE]"]
    assert in_order(several) == [several[1], several[0], several[2], several[3]]
    one = [b'data: {"index":0,"b":1}', b'data: {"usage":1}', b'data: {"index":0,"a":1}']
    assert in_order(one) == one


def test_what_the_client_wrote_itself_is_no_difference_in_what_it_gets_back() -> None:
    bodies = [b'{"text_output":"%b and the answer"}' % words for words in (b"one two", b"two one")]
    seen = [observe(answer(body=body), [words]) for body, words in zip(bodies, ("one two", "two one"), strict=True)]
    assert seen[0] == seen[1]


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_a_shift_in_the_numbers_is_told_and_noise_is_not(shift: float) -> None:
    chance = random.Random(5)
    firsts = [chance.random() < 0.5 for _ in range(1200)]
    rows = [[(shift if first else -shift) + chance.gauss(0, 1), chance.gauss(3, 1)] for first in firsts]
    told = [one.tells for one in judge(rows, firsts)]
    assert told == ([True, True] if shift else [False, False])


def test_what_no_straight_line_tells_apart_the_stumps_do() -> None:
    chance = random.Random(6)
    firsts = [chance.random() < 0.5 for _ in range(800)]
    rows = [[chance.choice((-1, 1)) * (2 if first else 1) + chance.gauss(0, 0.1)] for first in firsts]
    line, boosted = judge(rows, firsts)
    assert (line.tells, boosted.tells) == (False, True)


def test_a_handful_of_pairs_tells_nothing() -> None:
    assert not any(one.tells for one in judge([[1.0], [1.0], [1.0], [1.0]], [True, True, True, True]))
    low, high = wilson(3, 4)
    assert low < 0.5 < high


def test_a_run_proves_nothing_when_the_contained_prompts_were_not_rewritten() -> None:
    sent = [Sent(False, "/chat", ("Q:clean words",)), Sent(True, "/chat", ("Q:other words",))]

    def problems(clean: str, contained: str) -> list[str]:
        return prove(sent, [Received("m", clean, 1, 0), Received("m", contained, 1, 0)]).problems

    assert problems("Q:clean words", "You are a cat. Q:other words") == []
    assert "not rewritten" in problems("Q:clean words", "Q:other words")[0]
    assert "clean key were touched" in problems("Cat. Q:clean words", "Cat. Q:other words")[0]
    assert "nothing is proven" in prove(sent[:1], [Received("m", "Q:clean words", 1, 0)]).problems[0]


def test_the_two_of_a_pair_are_equally_long_in_bytes_and_tokens_and_begin_apart() -> None:
    folder = triton_models() / "demo"
    rooms = Rooms(folder / "chat_template.jinja", folder / "tokenizer.json")
    for kind in (*ORDINARY, *SWEEP):
        one, other = (kind.make(Draw(f"7 {kind.name}", side, 1, rooms)) for side in (0, 1))
        assert one.body is None or other.body is not None
        assert _size(one) == _size(other), kind.name
        counts = [[rooms.count("tabby", text) for text in ask.texts] for ask in (one, other)]
        assert counts[0] == counts[1], kind.name
        firsts = [{text[: text.index("Q:") + 7] for text in ask.texts} for ask in (one, other)]
        assert not firsts[0] & firsts[1], kind.name


def _size(ask: Ask) -> int:
    return len(ask.body or b"")


def test_every_kind_is_asked_at_least_once_and_more_than_thirty_are_bad() -> None:
    asked = {slot.kind.name for slot in schedule(1, "1")}
    assert {kind.name for kind in SWEEP} <= asked
    assert len({kind.name for kind in BAD}) == len(BAD) >= 30
    assert len(schedule(2000, "1")) >= 2000


def test_the_prefix_cache_finds_whole_blocks_from_the_beginning_and_never_the_last_token() -> None:
    cache = PrefixCache()
    tokens = list(range(BLOCK * 2))
    assert cache.take(tokens) == 0
    assert cache.take(tokens) == BLOCK
    assert cache.take([*tokens, 99]) == BLOCK * 2
    assert cache.take([5, *tokens]) == 0


def test_features_are_as_many_as_their_names() -> None:
    assert len(features(answer())) == len(FEATURES)
