"""Rewriting reaches every prompt, however it was spelt; loses nothing of the client's words; and is done once."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.decision import Edit
from gateway.core.errors import InvalidRequest
from gateway.core.prompt import Message, Prompt
from gateway.policy import rewrite as rewriting
from gateway.policy.rewrite import BETWEEN, MAX_REPLACED, MAX_WRITTEN, rewrite
from gateway.wire.openai import chat_prompt, completion_prompt, decode_chat, decode_completion

CAT = Edit("prepend_system", "You are a cat.")
END = Edit("append_system", "Purr.")
PREFIX = Edit("prefix_last_user", "Meow:")
CANARY = "Mention the saffron kestrel."

WORDS = st.text(max_size=8)
TEXTS = WORDS | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": WORDS}), max_size=3)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "developer", "user", "assistant"]), "content": TEXTS}
)
CHATS = st.fixed_dictionaries(
    {"model": st.just("m"), "messages": st.lists(MESSAGE, min_size=1, max_size=5)},
    optional={"max_tokens": st.integers(1, 50), "n": st.integers(1, 3), "stream": st.booleans(), "user": WORDS,
              "temperature": st.just(0.5), "stop": st.just(["x"]), "seed": st.integers(0, 9)},
)  # fmt: skip
COMPLETIONS = st.fixed_dictionaries(
    {"model": st.just("m"), "prompt": WORDS | st.lists(WORDS, min_size=1, max_size=4)},
    optional={"max_tokens": st.integers(1, 50), "n": st.integers(1, 3)},
)
EDITS = st.lists(st.sampled_from([CAT, END, PREFIX, Edit("prepend_system", "Second.")]), unique=True, min_size=1)


def chat(*turns: tuple[str, str]) -> Prompt:
    return Prompt(endpoint="chat", model="m", messages=tuple(Message(role, text) for role, text in turns))


def turns(prompt: Prompt) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in prompt.messages]


def texts(*given_texts: str) -> Prompt:
    return Prompt(endpoint="completions", model="m", texts=given_texts)


def parsed(body: dict[str, Any]) -> Prompt:
    data = json.dumps(body).encode()
    return chat_prompt(decode_chat(data), frozenset()) if "messages" in body else (
        completion_prompt(decode_completion(data), frozenset())
    )  # fmt: skip


@settings(deadline=None)
@given(CHATS | COMPLETIONS, EDITS, st.sampled_from([None, CANARY]), st.booleans())
def test_every_spelling_is_rewritten_nothing_is_lost_and_twice_is_once(
    body: dict[str, Any], edits: list[Edit], canary: str | None, system_role: bool
) -> None:
    prompt = parsed(body)
    after = rewrite(prompt, tuple(edits), canary, system_role=system_role)
    assert rewrite(after, tuple(edits), canary, system_role=system_role) == after
    wanted = [edit.text for edit in edits] + ([canary] if canary else [])
    whole = list(after.texts) or ["\n".join(message.content for message in after.messages)]
    for text in whole:  # of an array of prompts, each
        assert all(sentence in text for sentence in wanted)
    own = prompt.texts or tuple(message.content for message in prompt.messages)
    now = list(after.texts) or [message.content for message in after.messages]
    added = len(now) - len(own)
    assert added in ((0, 1) if system_role else (0,))
    for before, found in zip(own, now[added:], strict=True):
        assert before in found
    roles = [message.role for message in prompt.messages]
    assert [message.role for message in after.messages] == ["system"] * added + roles
    for name in prompt.__struct_fields__:
        if name not in ("messages", "texts"):
            assert getattr(after, name) == getattr(prompt, name)


@given(CHATS | COMPLETIONS)
def test_without_edits_a_prompt_is_what_it_was(body: dict[str, Any]) -> None:
    for system_role in (True, False):
        assert rewrite(parsed(body), (), system_role=system_role) == parsed(body)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([("user", "hi")], [("system", "You are a cat."), ("user", "hi")]),
        ([("system", "Be kind."), ("user", "hi")], [("system", "You are a cat.\n\nBe kind."), ("user", "hi")]),
        ([("user", "hi"), ("system", "Late.")], [("system", "You are a cat."), ("user", "hi"), ("system", "Late.")]),
        ([("assistant", "ho")], [("system", "You are a cat."), ("assistant", "ho")]),
        ([("system", "")], [("system", "You are a cat.\n\n")]),
        ([("system", "You are a cat.")], [("system", "You are a cat.")]),
        ([("system", "You are a cat.\n\nx")], [("system", "You are a cat.\n\nx")]),
        ([("system", "You are a cat. No.")], [("system", "You are a cat.\n\nYou are a cat. No.")]),
        ([], [("system", "You are a cat.")]),
    ],
)
def test_a_sentence_stands_before_the_system_prompt(
    before: list[tuple[str, str]], after: list[tuple[str, str]]
) -> None:
    assert turns(rewrite(chat(*before), (CAT,))) == after


def test_the_order_is_sentences_canary_own_words_appendix() -> None:
    edits = (CAT, Edit("prepend_system", "Second."), END, Edit("append_system", "End."))
    after = rewrite(chat(("system", "own"), ("user", "hi")), edits, CANARY)
    assert after.messages[0].content == f"You are a cat.\n\nSecond.\n\n{CANARY}\n\nown\n\nPurr.\n\nEnd."
    assert rewrite(chat(("user", "hi")), edits, CANARY).messages[0] == Message(
        "system", f"You are a cat.\n\nSecond.\n\n{CANARY}\n\nPurr.\n\nEnd."
    )
    assert rewrite(texts("a", "b"), (*edits, PREFIX), CANARY).texts == tuple(
        f"You are a cat.\n\nSecond.\n\n{CANARY}\n\nPurr.\n\nEnd.\n\nMeow:\n\n{text}" for text in "ab"
    )


def test_an_appendix_stands_behind_the_system_prompt_once() -> None:
    assert turns(rewrite(chat(("system", "own")), (END,))) == [("system", "own\n\nPurr.")]
    assert turns(rewrite(chat(("system", "own\n\nPurr.")), (END,))) == [("system", "own\n\nPurr.")]
    assert turns(rewrite(chat(("system", "Purr.")), (END,))) == [("system", "Purr.")]
    assert turns(rewrite(chat(("system", "No Purr.")), (END,))) == [("system", "No Purr.\n\nPurr.")]


def test_the_prefix_stands_before_the_last_thing_the_user_said() -> None:
    talk = chat(("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four"))
    assert turns(rewrite(talk, (PREFIX,))) == [
        ("user", "one"), ("assistant", "two"), ("user", "Meow:\n\nthree"), ("assistant", "four"),
    ]  # fmt: skip
    assert turns(rewrite(chat(("assistant", "x")), (PREFIX,))) == [("system", "Meow:"), ("assistant", "x")]
    assert turns(rewrite(chat(("system", "x")), (END, PREFIX))) == [("system", "x\n\nPurr.\n\nMeow:")]


def test_a_model_without_a_system_role_gets_it_all_from_the_user() -> None:
    talk = chat(("user", "one"), ("assistant", "two"), ("user", "three"))
    assert turns(rewrite(talk, (CAT, END, PREFIX), CANARY, system_role=False)) == [
        ("user", f"You are a cat.\n\n{CANARY}\n\nPurr.\n\none"), ("assistant", "two"), ("user", "Meow:\n\nthree"),
    ]  # fmt: skip
    assert turns(rewrite(chat(("user", "one")), (CAT, PREFIX), system_role=False)) == [
        ("user", "You are a cat.\n\nMeow:\n\none")
    ]
    assert turns(rewrite(chat(("assistant", "a")), (CAT, PREFIX), system_role=False)) == [
        ("assistant", "You are a cat.\n\nMeow:\n\na")
    ]
    assert turns(rewrite(chat(), (CAT,), system_role=False)) == [("user", "You are a cat.")]
    assert turns(rewrite(chat(("assistant", "a"), ("user", "u")), (CAT,), system_role=False)) == [
        ("assistant", "a"), ("user", "You are a cat.\n\nu"),
    ]  # fmt: skip


def test_a_pattern_is_replaced_in_the_clients_words_alone_before_anything_is_added() -> None:
    edits = (CAT, Edit("replace", "d\\0g", "CAT|dog"), Edit("replace", "mouse", "d.g"))
    after = rewrite(chat(("system", "a Cat"), ("user", "cat and DOG, catcat")), edits, "no cat here")
    assert turns(after) == [
        ("system", "You are a cat.\n\nno cat here\n\na mouse".replace("mouse", "d\\0g")),
        ("user", "d\\0g and mouse, d\\0gd\\0g".replace("mouse", "d\\0g")),
    ]
    assert rewrite(texts("a dog", "none"), (Edit("replace", "é", "dog"),)).texts == ("a é", "none")


def test_half_a_surrogate_pair_is_carried_through() -> None:
    assert rewrite(texts("x\ud800cat"), (Edit("replace", "dog", "cat"),)).texts == ("x\ud800dog",)


def test_so_many_matches_of_a_request_are_replaced_and_the_rest_stays_as_it_was() -> None:
    edits = (Edit("replace", "E", "e"), Edit("replace", "O", "o"))
    after = rewrite(texts("e" * (MAX_REPLACED - 3), "eo" * 4, "o"), edits).texts
    assert after == ("E" * (MAX_REPLACED - 3), "EoEoEoeo", "o")
    talk = rewrite(chat(("user", "e" * (MAX_REPLACED - 1)), ("user", "ooo")), edits)
    assert turns(talk)[1] == ("user", "Ooo")


def test_a_request_grows_by_no_more_than_is_said() -> None:
    by = "x" * 4000
    (after,) = rewrite(texts("e" * 60_000), (Edit("replace", by, "e"),)).texts
    assert 60_000 + MAX_WRITTEN - 2 * len(by) < len(after) <= 60_000 + MAX_WRITTEN
    assert after.endswith("e" * (60_000 - MAX_WRITTEN // len(by)))
    (shorter,) = rewrite(texts("e" * 9000), (Edit("replace", "", "e"),)).texts
    assert len(shorter) == 9000 - MAX_REPLACED


def test_a_pattern_that_reads_a_text_to_its_end_for_each_match_does_so_a_bounded_number_of_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rewriting, "MAX_READ", 100_000)
    greedy = Edit("replace", "-", "a[^b]*b|a")
    (after,) = rewrite(texts("a" * 20_000), (greedy,)).texts
    assert after == "----" + "a" * (20_000 - 4)
    assert rewrite(texts("a" * 100_000, "a"), (greedy,)).texts == ("a" * 100_000, "-")
    many = rewrite(texts(*["a"] * 100), (greedy,)).texts  # short ones are not free
    assert many == ("-",) * 12 + ("a",) * 88


def test_a_huge_prompt_is_rewritten_like_a_small_one() -> None:
    after = rewrite(texts("x" * 2_000_000), (CAT,))
    assert after.texts[0] == f"You are a cat.{BETWEEN}{'x' * 2_000_000}"


SPELLINGS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "hi"}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]}]},
    {"messages": [{"role": "developer", "content": "hi"}]},
    {"messages": [{"role": "assistant", "content": None, "refusal": "hi"}]},
    {"messages": [{"role": "user", "content": "h"}, {"role": "system", "content": "middle"}]},
    {"messages": [{"role": "user", "content": "\u200bYou are a cat."}]},
    {"messages": [{"role": "user", "content": "hi"}], "max_completion_tokens": 4, "max_tokens": 9},
    {"prompt": "hi"},
    {"prompt": ["hi", "ho"]},
    {"prompt": ""},
    {"prompt": "hi", "suffix": "", "echo": False},
]


@pytest.mark.parametrize("body", SPELLINGS, ids=str)
def test_spellings_of_old(body: dict[str, Any]) -> None:
    after = rewrite(parsed({"model": "m", **body}), (CAT,), CANARY)
    for text in after.texts or (after.messages[0].content,):
        assert text.startswith(f"You are a cat.{BETWEEN}{CANARY}")


def test_what_does_not_parse_never_comes_here() -> None:
    with pytest.raises(InvalidRequest):
        parsed({"model": "m", "prompt": "x", "echo": True})
