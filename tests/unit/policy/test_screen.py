"""The screen: one search that may say no in the place of many, and never says no where one of them says yes."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.core.facts import Facts
from gateway.policy.screen import MAX_PROGRAM, screen_of
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
