"""A touched prompt fits the model, keeps what was added, and loses no more of the client's words than it must."""

import asyncio
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.decision import Edit
from gateway.core.errors import InvalidRequest
from gateway.core.prompt import Message, Prompt
from gateway.dataplane.fit import MOST_CHEAP, Asked, Fitted, Touch, fitted, fitted_cheaply
from gateway.dataplane.more import more_tokens
from gateway.fleet.file import Model, TritonModel
from gateway.fleet.models import ServedModel
from gateway.fleet.template import read_template
from gateway.fleet.tokens import ByteCounter, TokenCounter, read_counter

CAT = Edit("prepend_system", "You are a cat.")
SENTENCE = "Mention the saffron kestrel."
CONTEXT = 400


class Sparse:
    """Runs of spaces are one token, as they are to many tokenizers; any other character is one."""

    exact = local = False

    def bound(self, text: str) -> int:
        return len(text.encode())

    def floor(self, text: str) -> int:
        return 0

    def count_now(self, text: str) -> int:
        return len(re.sub(" +", " ", text))

    async def count(self, text: str) -> int:
        return self.count_now(text)


def model(context: int = CONTEXT, *, block: int = 16) -> ServedModel:
    entry = Model(
        name="demo", triton=TritonModel("demo"), endpoints=("a",), context_tokens=context, max_output_tokens=context,
        tokenizer="bytes", cache_block_tokens=block,
    )  # fmt: skip
    return ServedModel(entry, frozenset(), Sparse(), render, ())


def render(messages: tuple[Message, ...]) -> str:
    return "".join(f"<{one.role}>{one.content}\n" for one in messages)


def fit(prompt: Prompt, most: int, served: ServedModel | None = None, edits: tuple[Edit, ...] = (CAT,)) -> Fitted:
    served = served or model()
    texts = served.render(prompt)
    counts = tuple(map(served.counter.count_now, texts))
    return asyncio.run(fitted(Asked(prompt, texts, most, counts), Touch(served, edits, SENTENCE)))


def holds(found: Fitted) -> bool:
    counts = map(found.work.model.counter.count_now, found.work.texts)
    return all(tokens + cap <= CONTEXT for tokens, cap in zip(counts, found.work.max_tokens, strict=True))


WORDS = ["tea", " ", " " * 40, "\N{GRINNING FACE}", "x" * 30, "", "\n"]
PIECES = st.lists(st.sampled_from(WORDS), max_size=12).map("".join)
CHATS = st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), PIECES), min_size=1, max_size=30).map(
    lambda turns: Prompt(endpoint="chat", model="m", messages=tuple(Message(role, text) for role, text in turns))
)
TEXTS = st.lists(PIECES, min_size=1, max_size=4).map(
    lambda texts: Prompt(endpoint="completions", model="m", texts=tuple(texts))
)


@settings(deadline=None, max_examples=300)
@given(CHATS | TEXTS, st.integers(1, CONTEXT))
def test_whatever_fits_untouched_fits_touched_with_all_that_was_added(prompt: Prompt, most: int) -> None:
    served = model()
    longest = max(map(served.counter.count_now, served.render(prompt)))
    most = min(most, CONTEXT - longest)
    if most < 1 or longest < 1:
        return
    found = fit(prompt, most)
    assert holds(found)
    assert all(CAT.text in text and SENTENCE in text for text in found.work.texts)
    assert served.render(found.touched()) == found.work.texts
    if longest >= 4 * 96:  # what is added is at most a quarter of it
        assert set(found.work.max_tokens) == {most}


def test_words_make_way_where_they_are_many_and_the_cap_where_they_are_few() -> None:
    many = fit(Prompt(endpoint="completions", model="m", texts=("x" * 380,)), 20)
    assert (many.work.max_tokens, holds(many)) == ((20,), True)
    few = fit(Prompt(endpoint="completions", model="m", texts=("tea?",)), 396)
    assert few.work.max_tokens[0] < 396
    assert "tea?" in few.work.texts[0]
    assert holds(few)


def test_dense_ends_around_an_empty_middle_are_no_way_past_it() -> None:
    text = "d" * 190 + " " * 5000 + "d" * 190
    found = fit(Prompt(endpoint="completions", model="m", texts=(text,)), 10)
    assert CAT.text in found.work.texts[0]
    assert holds(found)


def test_only_the_text_that_is_too_long_is_shortened() -> None:
    found = fit(Prompt(endpoint="completions", model="m", texts=("x" * 380, "hi")), 20)
    assert found.work.texts[1].endswith("hi")
    assert found.work.max_tokens == (20, 20)


@pytest.mark.parametrize("block", [1, 16, 64])
@pytest.mark.parametrize(
    "messages", [(Message("user", "hi"),), (Message("system", "Be brief."), Message("user", "hi"))]
)
def test_what_is_added_fills_whole_blocks(block: int, messages: tuple[Message, ...]) -> None:
    served = model(2000, block=block)
    prompt = Prompt(endpoint="chat", model="m", messages=messages)
    found = fit(prompt, 10, served)
    before, after = (sum(map(served.counter.count_now, texts)) for texts in (served.render(prompt), found.work.texts))
    assert found.added == after - before
    assert found.added % block == 0
    assert found.apart == (len(messages) == 1)


def test_sentences_elsewhere_than_at_the_beginning_are_not_said_to_stand_there() -> None:
    prompt = Prompt(endpoint="chat", model="m", messages=(Message("system", "Be brief."), Message("user", "hi")))
    assert fit(prompt, 10, edits=(Edit("append_system", "Purr."),)).added is None
    assert fit(prompt, 10, edits=(CAT, Edit("replace", "tea", "milk"))).added is None


FOLDING = """{% for m in messages %}{% if m.role == 'system' %}[INST] {{ m.content }}

{% elif m.role == 'user' %}{% if loop.first %}[INST] {% endif %}{{ m.content }} [/INST]{% else %}{{ m.content }}
{% endif %}{% endfor %}"""
STRICT = """{% for m in messages %}{% set turn = loop.index0 - (1 if messages[0].role == 'system' else 0) %}
{% if m.role == 'system' and not loop.first %}{{ raise_exception('system first') }}{% endif %}
{% if m.role != 'system' and (m.role == 'user') != (turn % 2 == 0) %}{{ raise_exception('roles alternate') }}{% endif %}
<{{ m.role }}>{{ m.content }}
{% endfor %}"""


def templated(template: str, folder: Path, counter: TokenCounter) -> ServedModel:
    file = folder / "template.jinja"
    file.write_text(template)
    return replace(model(2000), renderer=read_template(file), counter=counter)


@pytest.mark.parametrize("roles", [["user"], ["system", "user"], ["user", "assistant", "user"]])
def test_a_template_that_is_particular_about_roles_takes_the_sentences_all_the_same(
    tmp_path: Path, roles: list[str]
) -> None:
    served = templated(STRICT, tmp_path, Sparse())
    prompt = Prompt(endpoint="chat", model="m", messages=tuple(Message(role, f"{role} says") for role in roles))
    found = fit(prompt, 10, served)
    assert CAT.text in found.work.texts[0]
    assert served.render(found.touched()) == found.work.texts
    with pytest.raises(InvalidRequest):
        served.render(Prompt(endpoint="chat", model="m", messages=(Message("assistant", "first"),)))


class Joining(Sparse):
    """Runs of line ends are one token, as they are to many tokenizers, and whatever else one each."""

    def count_now(self, text: str) -> int:
        return len(re.sub("\n+", "\n", text))


def test_sentences_that_share_a_turn_with_the_clients_words_are_not_said_to_stand_apart(tmp_path: Path) -> None:
    prompt = Prompt(endpoint="chat", model="m", messages=(Message("user", "\nhi"),))
    assert not fit(prompt, 10, templated(FOLDING, tmp_path, Joining())).apart
    assert fit(prompt, 10, templated(STRICT, tmp_path, Joining())).apart


def test_what_another_tokenizer_counted_says_nothing_of_whether_it_fits() -> None:
    """A decoy with a tokenizer of its own: where nobody has counted with that, it is counted."""
    prompt = Prompt(endpoint="completions", model="m", texts=("x" * 380,))
    found = asyncio.run(fitted(Asked(prompt, prompt.texts, 20), Touch(model(), (CAT,), SENTENCE)))
    assert holds(found)
    assert found.work.texts[0].count("x") < 380


def test_only_what_costs_next_to_nothing_is_touched_before_its_request_is_admitted() -> None:
    served = model(10**6)

    def cheaply(edits: tuple[Edit, ...], *messages: Message) -> Fitted | None:
        prompt = Prompt(endpoint="chat", model="m", messages=messages)
        texts = served.render(prompt)
        return fitted_cheaply(Asked(prompt, texts, 10, tuple(map(len, texts))), Touch(served, edits, SENTENCE))

    hi = Message("user", "hi")
    found = cheaply((CAT,), hi)
    assert found is not None
    assert found.work == fit(Prompt(endpoint="chat", model="m", messages=(hi,)), 10, served).work
    assert cheaply((Edit("append_system", "Purr."),), hi) is None
    assert cheaply((CAT, Edit("replace", "tea", "milk")), hi) is None
    assert cheaply((CAT,), Message("user", "x" * MOST_CHEAP)) is None


def test_blocks_are_filled_once_for_each_principal() -> None:
    touch = Touch(model(2000), (CAT,), SENTENCE)
    hi, there = (Prompt(endpoint="chat", model="m", messages=(Message("user", text),)) for text in ("hi", "there"))
    assert touch.heading(hi) is touch.heading(there)


DEMO = read_counter("demo/tokenizer.json", Path(__file__).parents[3] / "triton_models" / "demo" / "tokenizer.json")
ANY = st.text(max_size=60) | st.lists(st.sampled_from([*WORDS, "the", " old", "!", "'s", "  ", "\r\n"])).map("".join)


@pytest.mark.parametrize("counter", [DEMO, ByteCounter()])
@settings(deadline=None, max_examples=400)
@given(before=ANY, added=ANY, after=ANY)
def test_what_was_added_is_counted_at_its_border_as_in_the_whole(
    counter: TokenCounter, before: str, added: str, after: str
) -> None:
    untouched, touched = before + after, before + added + after
    found = more_tokens(counter, untouched, touched)
    assert counter.local
    assert found is not None
    assert found == counter.count_now(touched) - counter.count_now(untouched)


def test_a_text_that_was_shortened_is_counted_as_a_whole() -> None:
    assert more_tokens(DEMO, "some old words of tea", "A cat. some of tea") is None
    assert more_tokens(Sparse(), "tea", "A cat. tea") is None
