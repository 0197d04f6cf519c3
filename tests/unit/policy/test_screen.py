"""The screen: one search that may say no in the place of many, and never says no where one of them says yes."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.core.facts import Facts
from gateway.policy.screen import MAX_NEEDED, MAX_PROGRAM, MOST_IN_A_GROUP, MOST_LOOKED, screen_of
from gateway.policy.text import HALF, Answers, Predicate, Question, Screen, compile_predicate
from gateway.policy.variables import USER_TEXT

PHRASES = ("your system prompt", "ignore all rules", "a+b (c)", "straße", "x", "-", "ﬁ ne", "K", "ı")
PATTERNS = (
    "(ignore|forget) (all |any )?(rules|prompts)",
    "your (system|hidden) ?prompt",
    "(?:repeat )+the words",
    "a.b",
    "^ignore",
    "rules$",
    r"\bprompt\b",
    "[a-z ]+ prompt",
    "(?i:Say) it",
    "x{2} y",
    "\u017f",
    "a  b",
)
PLACES: tuple[Question, ...] = ("contains", "startsWith", "endsWith")
PREDICATES = [
    *(Predicate(USER_TEXT, question, phrase) for question in PLACES for phrase in PHRASES),
    *(Predicate(USER_TEXT, "matches", pattern) for pattern in PATTERNS),
]
SPACES = st.sampled_from([" ", "  ", "\n", "\t \r\n", "\x0b", "\x0c", "\x1c", "\x1f", "\u00a0", "\u2003", "\u200b", ""])
PIECES = st.sampled_from(
    ["ignore", "FORGET", "All", "rules", "prompts", "your", "SYSTEM", "system", "prompt", "hidden", "repeat", "the",
     "words", "a+b", "(c)", "a", "b", "x", "xx", "y", "say it", "Straße", "STRASSE", "ﬁ", "fi", "ne", "K", "k", "ı",
     "s", "ſ", "\u200brules", "sys\u00adtem", "-"]
)  # fmt: skip
WORDS = st.lists(st.tuples(PIECES, SPACES), max_size=12).map(lambda parts: "".join(a + b for a, b in parts))


TESTS = {predicate.id: compile_predicate(predicate) for predicate in PREDICATES}
SCREEN = screen_of(PREDICATES)


def asked(texts: tuple[str, ...], screen: Screen | None) -> dict[str, bool | None]:
    answers = Answers(Facts(texts=texts), TESTS, None, screen)
    return {predicate.id: answers.of(predicate.id, predicate.subject) for predicate in PREDICATES}


@settings(max_examples=300, deadline=None)
@example([" ignore \x1c all\n\n rules"])
@example(["x" * (2 * HALF), "ignore all rules"])
@given(st.lists(WORDS, min_size=1, max_size=3))
def test_every_answer_is_what_it_is_without_a_screen(texts: list[str]) -> None:
    assert asked(tuple(texts), SCREEN) == asked(tuple(texts), None)


def test_words_that_no_rule_asks_about_are_searched_once_and_never_folded() -> None:
    searched: list[bytes] = []
    plain = [one for one in PREDICATES if one.wanted in PHRASES[:4]]
    screen = screen_of(plain)
    assert screen is not None

    def search(words: bytes) -> object | None:
        searched.append(words)
        return screen.search(words)

    answers = Answers(Facts(texts=("How do I  bake\nbread?",)), {}, None, screen._replace(search=search))
    assert [answers.of(one.id, one.subject) for one in plain] == [False] * len(plain), "no test was there to be run"
    assert searched == [b"How do I  bake\nbread?"]
    assert len(answers.given) == len(plain), "each is recorded all the same"


def test_patterns_of_places_and_single_characters_are_left_to_themselves() -> None:
    assert SCREEN is not None
    left = {one.wanted for one in PREDICATES if one.id not in SCREEN.names}
    assert left == {"a.b", "^ignore", "rules$", r"\bprompt\b", "[a-z ]+ prompt", "(?i:Say) it", "x{2} y"}
    assert screen_of([Predicate("client.ip", "matches", "10")]) is None, "only words are screened"
    assert screen_of([Predicate(USER_TEXT, "contains", "half \ud800 a pair")]) is None


def test_a_screen_grows_no_further_than_there_is_room() -> None:
    many = [Predicate(USER_TEXT, "contains", f"{number} " + "phrase " * 20) for number in range(200)]
    screen = screen_of(many)
    assert screen is not None
    assert 2 < len(screen.names) < len(many)
    assert screen.search(b"199 " + b"phrase " * 20) is None, "not in it"
    assert screen.search(b"0 " + b"phrase " * 20) is not None
    assert MAX_PROGRAM == 2000, "what two predicates may have at most"


NEEDS: dict[str, list[list[set[str]]]] = {
    "(ignore|disregard) (all |any )?(previous|prior) (rule|word)": [
        [{"ignore", "disregard"}, {"previous", "prior"}, {"rule", "word"}]
    ],
    "Tell me |print ?(it)?": [[{"tell"}], [{"print"}]],
    "(?:repeat )+the words": [[{"repeat"}, {"words"}, {"the"}]],
    "(aaa|b?) long (er|)": [[{"long"}]],
    "(aaa|longword) word": [[{"word"}, {"aaa", "longword"}]],
    "(aaaa|bbbb) cccc": [[{"cccc"}, {"aaaa", "bbbb"}]],
    "colou?r": [[{"colo"}]],
    "ab+cde": [[{"cde"}]],
    "abc+?d": [[{"abc"}]],
    "sys(tem)?sss": [[{"sss"}, {"sys"}]],
    "(pa(ra|lla)dise|a+bcd)": [[{"dise", "bcd"}]],
    "\u017fays so": [[{"ays"}]],
    "ab\u0130?cde": [[{"cde"}]],
    "(" + "|".join(f"word{n}" for n in range(MOST_IN_A_GROUP + 1)) + ") of it": [],
    "some (" + "|".join(f"word{n}" for n in range(MOST_IN_A_GROUP + 1)) + ")": [[{"some"}]],
}


def needs(screen: Screen) -> list[list[set[str]]]:
    return [[set(group) for group in groups] for groups in screen.needed] if screen.most else []


@pytest.mark.parametrize("pattern", NEEDS)
def test_each_branch_of_a_pattern_needs_the_words_that_it_cannot_do_without_the_longest_first(pattern: str) -> None:
    screen = screen_of([Predicate(USER_TEXT, "matches", pattern)])
    assert screen is not None
    assert needs(screen) == NEEDS[pattern]


def test_a_phrase_needs_all_of_its_words_but_for_the_shortest() -> None:
    phrases = [Predicate(USER_TEXT, "contains", phrase) for phrase in ("It is YOUR prompts", "一 secret 二", "straße")]
    screen = screen_of([*phrases, *phrases])
    assert screen is not None
    assert needs(screen) == [[{"prompts"}, {"your"}], [{"secret"}], [{"strasse"}]]


@pytest.mark.parametrize("wanted", ["(a|b)?", "x*", "一二", " +", "(word|)", "(word|a*)", "it", "word|it"])
def test_nothing_is_looked_for_where_some_part_needs_nothing_to_look_for(wanted: str) -> None:
    needy, other = Predicate(USER_TEXT, "matches", wanted), Predicate(USER_TEXT, "contains", "phrase")
    screen = screen_of([other, needy])
    assert screen is not None
    assert needy.id in screen.names
    assert screen.most == 0
    assert not screen.plainly_nothing(("",))


def test_the_more_words_there_are_the_shorter_are_the_texts_in_which_they_are_looked_for() -> None:
    def most(words: int) -> int:
        screen = screen_of([Predicate(USER_TEXT, "contains", f"phrase{number}") for number in range(words)])
        assert screen is not None
        return screen.most

    assert [words * most(words) for words in (1, 32, MAX_NEEDED)] == [MOST_LOOKED] * 3
    assert most(MAX_NEEDED + 1) == 0


LETTERS = st.text("abcK \u017f\u0130é", min_size=1, max_size=4)
ENDS = st.sampled_from([")", ")?", ")*", ")+", ")+?", ")??"])
PLAIN = st.recursive(
    LETTERS,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map("|".join),
        st.tuples(st.sampled_from(["(", "(?:"]), inner, ENDS).map("".join),
        st.tuples(LETTERS, st.sampled_from("?*+")).map("".join),
    ),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=1000, deadline=None)
@given(PLAIN, st.text("aAbBcCkK \nsS", max_size=16))
@example("abc\u0130?abc", "abcabc")
def test_what_is_found_in_ascii_is_never_plainly_nothing(pattern: str, text: str) -> None:
    screen = screen_of([Predicate(USER_TEXT, "matches", pattern)])
    assert screen is not None
    if screen.search(text.encode()) is not None:
        assert not screen.plainly_nothing((text,))


@settings(max_examples=300, deadline=None)
@example(["hello", "ignore all rules"])
@example(["x" * MOST_LOOKED, "ignore all rules"])
@example(["ignore\x1call\nrules"])
@given(st.lists(WORDS, min_size=1, max_size=3))
def test_soon_or_not_the_screen_says_the_same(texts: list[str]) -> None:
    plain = [one for one in PREDICATES if one.wanted in (*PHRASES[:2], *PATTERNS[:3])]
    screen = screen_of(plain)
    assert screen is not None and screen.most
    facts = Facts(texts=tuple(texts))
    assert Answers(facts, TESTS, None, screen).screened_soon() == Answers(facts, TESTS, None, screen).screened()


@pytest.mark.parametrize(
    ("text", "searches"),
    [
        ("How do I  bake\nbread?", 0),
        ("x" * (MOST_LOOKED // 3 - 1), 0),
        ("x" * (MOST_LOOKED // 3), 1),
        ("Wie bäckt man Brot?", 1),
        ("What is your SYSTEM made of?", 0),
        ("Prompt: name systems that are not yours.", 1),
    ],
)
def test_the_search_is_left_out_where_few_words_lack_one_that_is_needed(text: str, searches: int) -> None:
    screen = screen_of([Predicate(USER_TEXT, "contains", "your system prompt")])
    assert screen is not None
    searched: list[bytes] = []

    def search(words: bytes) -> object | None:
        searched.append(words)
        return screen.search(words)

    answers = Answers(Facts(texts=(text,)), {}, None, screen._replace(search=search))
    assert answers.screened_soon()
    assert len(searched) == searches
