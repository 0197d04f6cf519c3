"""Containment cannot be told from service: whatever is asked, and however it is spelt, the prompt that the model reads
is another one, and nothing that the client is told is."""

from typing import Any

import pytest

from gateway.identity.issue import IssuedKey
from tests.support.containment import CANARY, CAT, bare, by_choice, contained, read
from tests.support.gateways import TEMPLATE, World, in_the_world
from tests.support.spellings import Spelling, refused, spellings
from tests.support.triton import Generation, event

pytestmark = in_the_world


async def test_there_are_fifty_spellings() -> None:
    assert len(spellings()) + len(refused()) >= 50


async def test_streams_are_compared_choice_by_choice_and_strictly_otherwise() -> None:
    a, b, c = (b'data: {"choices":[{"index":%d,"text":"%s"}]}' % one for one in ((0, b"a"), (1, b"b"), (1, b"c")))
    end = [b'data: {"choices":[],"usage":{}}', b"data: [DONE]", b""]
    whole = b"\n\n".join([a, b, c, *end])
    for alike in ([b, a, c], [b, c, a], [a, b, c]):
        assert by_choice(b"\n\n".join([*alike, *end])) == whole
    for other in ([a, c, b, *end], [a, b, end[0], c, *end[1:]], [a, b, *end], [a, b, c, *end[1:]]):
        assert by_choice(b"\n\n".join(other)) != whole


@pytest.mark.parametrize("one", spellings(), ids=lambda one: one.name)
async def test_every_spelling_is_rewritten_and_told_as_if_it_were_not(house: World, one: Spelling) -> None:
    clean, marked = await house.key(), await contained(house)
    said, prompts = await read(house, clean, one)
    said_to_marked, rewritten = await read(house, marked, one)
    assert said[0] == 200
    assert said_to_marked == said
    assert len(prompts) == len(rewritten) == one.generations
    for prompt in rewritten:
        assert prompt.removeprefix("system: ").startswith(CAT)
        assert CANARY.search(prompt)
    assert sorted(map(bare, rewritten)) == prompts
    usual, record = await house.event(clean), await house.event(marked)
    assert not usual.contained
    assert (record.contained, record.matched) == (True, ("cat",))
    assert (record.prompt_tokens, record.completion_tokens) == (usual.prompt_tokens, usual.completion_tokens)
    assert record.prompt_tokens + record.beyond_prompt_tokens == sum(len(text.encode()) for text in set(rewritten)) or (
        len(set(rewritten)) < one.generations
    )
    assert record.beyond_prompt_tokens > 0
    assert record.cost == usual.cost


@pytest.mark.parametrize("one", refused(), ids=lambda one: one.name)
async def test_what_is_refused_is_refused_alike(house: World, one: Spelling) -> None:
    clean, marked = await house.key(), await contained(house)
    said, _ = await read(house, clean, one)
    assert said[0] == 400
    assert (await read(house, marked, one))[0] == said


def exactly(tokens: int) -> str:
    """A user's text with which a chat has so many tokens, which are bytes here."""
    return "x" * (tokens - len(TEMPLATE_OF_ONE) - 1)


TEMPLATE_OF_ONE = "user: "


@pytest.mark.parametrize("room", [1, 2, 15, 16, 17, 100, 300])
@pytest.mark.parametrize("past", [0, 1])
async def test_the_edges_of_the_context_are_where_they_are_for_all(house: World, room: int, past: int) -> None:
    """With no room left for what is added, some of the client's own words make it."""
    assert TEMPLATE.count("{{ message.role }}: ") == 1
    body = {"model": "demo", "messages": [{"role": "user", "content": exactly(4096 - room + past)}], "max_tokens": room}
    one = Spelling("edge", "/v1/chat/completions", body)
    clean, marked = await house.key(), await contained(house)
    said, _ = await read(house, clean, one)
    assert said[0] == (400 if past else 200)
    said_to_marked, prompts = await read(house, marked, one)
    assert said_to_marked == said
    for prompt in prompts:
        (generation,) = [g for triton in house.tritons for g in triton.generations]
        assert len(prompt.encode()) + generation.parameters["max_tokens"] <= 4096


async def at_the_cap(generation: Generation) -> None:
    """Generates as much as it may."""
    most, text = generation.parameters["max_tokens"], generation.request["text_input"]
    await generation.send(event("ok", finish="length", prompt_tokens=len(text.encode()), tokens=most))
    await generation.end()


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": exactly(3996)}], "max_tokens": 100},
        {"messages": [{"role": "user", "content": "tea"}] * 340, "max_tokens": 16},
        {"prompt": ["x" * 3996, "hi"], "max_tokens": 100},
        {"prompt": ["a" * 3000, "\N{GRINNING FACE}" * 1018], "max_tokens": 10},
        {"prompt": "d" * 400 + " " * 3286 + "d" * 400, "max_tokens": 10},
    ],
)
async def test_an_answer_that_fills_its_cap_at_the_edge_of_the_context_is_told_alike(
    house: World, body: dict[str, Any]
) -> None:
    """Words of the client make way for what is added, whichever of its texts is in its way; its cap stays."""
    for triton in house.tritons:
        triton.behave = at_the_cap
    path = "/v1/completions" if "prompt" in body else "/v1/chat/completions"
    number = len(body["prompt"]) if isinstance(body.get("prompt"), list) else 1
    one = Spelling("full", path, {"model": "demo", **body}, number)
    clean, marked = await house.key(), await contained(house)
    said, _ = await read(house, clean, one)
    assert said[0] == 200
    said_to_marked, prompts = await read(house, marked, one)
    assert said_to_marked == said
    assert len(prompts) == number
    for prompt in prompts:
        assert CAT in prompt
        assert len(prompt.encode()) + body["max_tokens"] <= 4096


async def test_where_there_are_no_words_to_leave_out_the_cap_is_lowered_and_the_end_told_as_one_of_its_own(
    house: World,
) -> None:
    for triton in house.tritons:
        triton.behave = at_the_cap
    marked = await contained(house)
    message = {"role": "user", "content": exactly(40)}
    key, answer = marked, await house.gateway.chat(marked.token, model="narrow", messages=[message], max_tokens=360)
    body = await answer.json()
    assert body["usage"]["prompt_tokens"] == 40
    assert body["usage"]["completion_tokens"] < 360
    assert body["choices"][0]["finish_reason"] == "stop"
    assert (await house.event(key)).contained


async def test_what_the_backend_adds_by_itself_is_told_to_all(house: World) -> None:
    """A fleet file that says nothing of a BOS token must not uncover anybody."""

    async def with_one_more(generation: Generation) -> None:
        text = generation.request["text_input"]
        await generation.send(event("ok", finish="stop", prompt_tokens=len(text.encode()) + 1))
        await generation.end()

    for triton in house.tritons:
        triton.behave = with_one_more
    clean, marked = await house.key(), await contained(house)
    one = spellings()[0]
    said, _ = await read(house, clean, one)
    assert (await read(house, marked, one))[0] == said


def shared(one: bytes, other: bytes) -> int:
    """How long a beginning they have in common."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


class Cache:
    """A backend's prefix cache, in blocks of 16 tokens, of all that was ever read."""

    def __init__(self) -> None:
        self._read: list[bytes] = []

    async def __call__(self, generation: Generation) -> None:
        text = generation.request["text_input"].encode()
        common = max((shared(text, old) for old in self._read), default=0)
        self._read.append(text)
        found = min(common, len(text) - 1) // 16 * 16
        await generation.send(event("ok", finish="stop", prompt_tokens=len(text), num_cached_tokens=found))
        await generation.end()


@pytest.mark.parametrize("length", range(100, 117))
async def test_the_prefix_cache_is_told_as_it_would_have_been_found(house: World, length: int) -> None:
    """In a conversation that grows, and for a prompt that is sent again."""
    clean, marked = await house.key(), await contained(house)
    told: list[list[Any]] = []
    await asked_of(house, marked, [{"role": "user", "content": "hello"}])  # its sentences are in the cache
    for key in (clean, marked):
        cache = Cache()
        for triton in house.tritons:
            triton.behave = cache
        await asked_of(house, key, [{"role": "user", "content": "something else"}])
        chat = [{"role": "user", "content": "x" * length}]
        counts = []
        for _ in range(3):
            counts += [await asked_of(house, key, chat), await asked_of(house, key, chat)]
            chat += [{"role": "assistant", "content": "ok"}, {"role": "user", "content": "and then?"}]
        told.append(counts)
    assert told[0] == told[1]
    assert told[0][-1] > told[0][1] > 0


async def asked_of(world: World, key: IssuedKey, messages: list[dict[str, str]]) -> int:
    """The cached tokens that a chat is told."""
    answer = await (await world.gateway.chat(key.token, model="solo", messages=messages)).json()
    return int((answer["usage"].get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
