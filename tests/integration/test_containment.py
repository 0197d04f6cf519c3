"""Containment cannot be told from service: whatever is asked, and however it is spelt, the prompt that the model reads
is another one, and nothing that the client is told is."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import update

from gateway.core.event import RequestEvent
from gateway.core.record import MAX_ANSWERS
from gateway.identity.issue import IssuedKey, revoke_key
from gateway.identity.regard import contain, set_never_contain
from gateway.storage.rows import row_of
from gateway.storage.tables import principal, request_event
from gateway.telemetry import clock
from tests.support.eventually import eventually
from tests.support.gateways import PARTITIONS, TEMPLATE, World, in_the_world
from tests.support.http import Answer
from tests.support.spellings import HI, Spelling, refused, spellings
from tests.support.triton import FakeTriton, Generation, event

pytestmark = in_the_world

CAT = "You are a cat. Respond to the following query in the voice of a cat."
CANARY = re.compile("Somewhere in your answer, mention in passing that the [a-z ]+[.]")
MASKS = [(re.compile(pattern), "…") for pattern in
         (rb'"id":"[^"]*"', rb'"created":\d+', rb"request req_\w+")]  # fmt: skip
CHOICE = re.compile(rb'"choices":\[\{(?:"text":"(?:[^"\\]|\\.)*",)?"index":(\d+)')
RULES: dict[str, tuple[str, list[dict[str, Any]], dict[str, Any]]] = {
    "cat": (
        'principal.state == "contained" && request.endpoint in ["chat", "completions"]',
        [{"rewrite": {"prepend_system": CAT}}, {"canary": {}}],
        {"covert": True},
    ),
    "elsewhere": ('"elsewhere" in principal.tags', [{"shadow": {"pool": "decoy"}}], {"covert": True}),
    "nowhere": ('"nowhere" in principal.tags', [{"shadow": {"pool": "gone"}}], {"covert": True}),
    "denied": (
        '"denied" in principal.tags',
        [{"deny": {"status": 403, "code": "permission_denied", "message": "Not today."}}],
        {},
    ),
    "capped": ('"capped" in principal.tags', [{"cap": {"max_tokens": 3}}], {}),
    "throttled": ('"throttled" in principal.tags', [{"throttle": {"percent": 100, "retry_after_s": 7}}], {}),
    "late": ('"late" in principal.tags', [{"slow": {"low": 0.4, "high": 0.6}}], {"covert": True}),
    "watched": ('"watched" in principal.tags', [{"flag": "seen"}], {"covert": True}),
    **{
        f"curious{number}": (
            f'"curious{number}" in principal.tags && !('
            + " || ".join(f'request.user_text.contains("q{number}{asked}")' for asked in range(70))
            + ")",
            [{"flag": "asked"}],
            {"covert": True},
        )
        for number in range(4)
    },
    "tried": ('"tried" in principal.tags', [{"rewrite": {"prepend_system": CAT}}], {"covert": True, "mode": "log"}),
}


def policy(name: str, match: str, actions: list[dict[str, Any]], more: dict[str, Any]) -> str:
    given = {"principal": {"state": "contained", "tags": [name]}, "request": {"endpoint": "chat"}}
    examples = [{"given": given, "expect": {"matched": True}}, {"given": {}, "expect": {"matched": False}}]
    spec = {"mode": "enforce", "match": match, "actions": actions, **more}
    metadata = {"id": name, "description": f"For the tests: {name}."}
    return json.dumps(
        {"apiVersion": "catflap/v1", "kind": "Policy", "metadata": metadata, "spec": spec, "examples": examples}
    )


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def rules(whole_world: World) -> AsyncIterator[None]:
    """The tests' policies in force in both gateways."""
    folder = whole_world.folder / "policies" / "rules"
    folder.mkdir(exist_ok=True)
    for name, (match, actions, more) in RULES.items():
        (folder / f"{name}.yaml").write_text(policy(name, match, actions, more))
    key = await whole_world.key(tags=["watched"])

    async def loaded() -> bool:
        for gateway in whole_world.gateways:
            await (await gateway.chat(key.token)).body()
        return all(one.flags == ("seen",) for one in (await whole_world.events(key))[-len(whole_world.gateways) :])

    await eventually(loaded, within_s=20, what="the rules of the tests")
    yield
    for file in folder.glob("*.yaml"):
        file.unlink()


@pytest.fixture
def house(world: World, rules: None) -> World:
    """The world with these rules, its Tritons echoing."""
    for triton in world.tritons:
        triton.behave = echo
    return world


async def echo(generation: Generation) -> None:
    """Says what it read, in one token; its prompt tokens are what it read in bytes, as its tokenizer counts them."""
    text = generation.request["text_input"]
    more: dict[str, Any] = {}
    if generation.parameters.get("logprobs") is not None:
        more["logprobs"] = json.dumps([{"5": {"logprob": -0.1, "rank": 1, "decoded_token": "x"}}])
    await generation.send(event("ok", finish="stop", prompt_tokens=len(text.encode()), tokens=1, **more))
    await generation.end()


async def contained(world: World, **bounds: Any) -> IssuedKey:
    key = await world.key(**bounds)
    await contain(
        world.database, world.redis, PARTITIONS, key.record.principal, author="tests", reason="to see what it is told"
    )
    return key


async def told(world: World, key: IssuedKey, one: Spelling) -> tuple[int, list[str], bytes]:
    """Status, names of headers in order, and body less what differs from any request to the next."""
    answer = await world.gateway.post(one.path, key.token, one.body)
    body = await answer.body()
    for mask, by in MASKS:
        body = mask.sub(by.encode(), body)
    if one.body.get("stream") and one.generations > 1:
        body = by_choice(body)
    return answer.status, list(answer.headers), body


def by_choice(body: bytes) -> bytes:
    """A stream of several choices, whose frames come as they are ready: the frames of choices choice by choice, each
    choice's in the order in which they came; all others where they stand."""
    came = body.split(b"\n\n")
    frames = list(came)
    of_choices = {place: int(found[1]) for place, frame in enumerate(came) if (found := CHOICE.search(frame))}
    assert len(set(of_choices.values())) > 1
    for place, other in zip(of_choices, sorted(of_choices, key=lambda place: of_choices[place]), strict=True):
        frames[place] = came[other]
    return b"\n\n".join(frames)


async def read(world: World, key: IssuedKey, one: Spelling) -> tuple[tuple[int, list[str], bytes], list[str]]:
    """What the client was told, and what the model read."""
    for triton in world.tritons:
        triton.generations.clear()
    said = await told(world, key, one)
    prompts = [generation.request["text_input"] for triton in world.tritons for generation in triton.generations]
    return said, sorted(prompts)


ADDED = re.compile(re.escape(CAT) + r"\n\n" + CANARY.pattern + r"\n*")


def bare(prompt: str) -> str:
    """A prompt without what containment added: in a chat a system message before all others, or its beginning."""
    return re.sub(r"\Asystem: (user|assistant): ", r"\1: ", ADDED.sub("", prompt, count=1))


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


async def test_who_is_contained_is_contained_at_the_next_request_and_who_is_released_too(house: World) -> None:
    key = await house.key()
    hi = Spelling("hi", "/v1/chat/completions", {"model": "demo", "messages": [{"role": "user", "content": HI}]})
    before, _ = await read(house, key, hi)
    where = house.database, house.redis, PARTITIONS, key.record.principal
    await contain(*where, author="tests", reason="now")
    after, prompts = await read(house, key, hi)
    assert CAT in prompts[0]
    assert after == before
    await set_never_contain(*where, True, author="tests", reason="a friend")
    _, prompts = await read(house, key, hi)
    assert CAT not in prompts[0]
    last = (await house.events(key))[-1]
    assert not last.contained
    assert last.record is not None
    assert last.record.facts.never_contain


async def test_what_was_decided_on_a_key_that_has_just_been_revoked_is_no_part_of_its_record(house: World) -> None:
    """Decisions are made before it is known whether the key is still good."""
    key = await contained(house)
    assert (await house.gateway.chat(key.token)).status == 200
    assert (await house.event(key)).matched == ("cat",)
    await revoke_key(house.database, house.redis, PARTITIONS, key.record.id)
    assert (await house.gateway.chat(key.token)).status == 401

    async def refused_event() -> bool:
        return (await house.events(key))[-1].outcome == "refused"

    await eventually(refused_event, what="the record of the refusal")
    last = (await house.events(key))[-1]
    assert (last.matched, last.record, last.contained) == ((), None, False)


async def test_a_containment_ends_by_itself_when_its_time_is_over(house: World) -> None:
    key = await contained(house)
    async with house.database.write() as connection:
        over = update(principal).where(principal.c.id == key.record.principal).values(state_until_ms=1)
        await connection.execute(over)
    await house.gateway.chat(key.token)
    assert not (await house.event(key)).contained


async def test_a_refusal_by_a_policy_is_an_ordinary_error_and_costs_nothing(house: World) -> None:
    key = await house.key("wide", tags=["denied"])
    answer = await house.gateway.chat(key.token)
    assert answer.status == 403
    error = (await answer.json())["error"]
    assert error == {
        "message": "Not today.", "type": "invalid_request_error", "param": None, "code": "permission_denied",
    }  # fmt: skip
    record = await house.event(key)
    assert (record.outcome, record.status, record.matched) == ("refused", 403, ("denied",))
    assert (record.prompt_tokens, record.completion_tokens, record.cost) == (0, 0, 0)
    assert await house.used(key, "tokens_per_minute") == 0


async def test_a_throttle_says_when_to_come_again(house: World) -> None:
    key = await house.key(tags=["throttled"])
    answer = await house.gateway.chat(key.token)
    assert (answer.status, answer.headers["retry-after"]) == (429, "7")
    assert (await answer.json())["error"]["code"] == "rate_limit_exceeded"


async def test_a_cap_is_enforced(house: World) -> None:
    key = await house.key(tags=["capped"])
    await house.gateway.chat(key.token, max_tokens=20)
    (generation,) = [g for triton in house.tritons for g in triton.generations]
    assert generation.parameters["max_tokens"] == 3


@pytest.mark.parametrize("one", spellings()[:3], ids=lambda one: one.name)
async def test_a_policy_in_mode_log_changes_no_byte(house: World, one: Spelling) -> None:
    clean, tried = await house.key(), await house.key(tags=["tried"])
    assert await read(house, tried, one) == await read(house, clean, one)
    record = await house.event(tried)
    assert (record.matched, record.logged, record.contained) == ((), ("tried",), False)


async def test_a_decoy_answers_in_the_models_name(house: World) -> None:
    clean, shadowed = await house.key(), await house.key(tags=["elsewhere"])
    one = spellings()[0]
    said, _ = await read(house, clean, one)
    assert (await read(house, shadowed, one))[0] == said
    record = await house.event(shadowed)
    assert (record.model, record.upstream, record.shadow) == ("demo", "decoy", "pool:decoy")
    assert (await house.event(clean)).upstream != "decoy"


async def test_a_decoy_that_fails_is_not_seen_from_any_error(house: World) -> None:
    decoy: FakeTriton = house.tritons[2]

    async def refuse(generation: Generation) -> None:
        await generation.refuse(500)

    decoy.behave = refuse
    clean, shadowed = await house.key(), await house.key(tags=["elsewhere"])
    one = spellings()[0]
    assert (await read(house, shadowed, one))[0] == (await read(house, clean, one))[0]
    record = await house.event(shadowed)
    assert (record.outcome, record.shadow) == ("completed", None)


async def test_a_decoy_that_is_silent_is_not_waited_for_long(house: World) -> None:
    async def be_silent(generation: Generation) -> None:
        await generation.gone.wait()

    house.tritons[2].behave = be_silent
    shadowed = await house.key(tags=["elsewhere"])
    second = house.gateways[1]  # in the first one it may rest
    answers = [await second.chat(shadowed.token) for _ in range(2)]
    assert [answer.status for answer in answers] == [200, 200]
    assert len(house.tritons[2].generations) <= 1  # then it rests
    assert {event.shadow for event in await house.events(shadowed)} == {None}


async def test_a_pool_that_is_not_there_is_counted_and_the_request_served(house: World) -> None:
    before = await house.gateway.metrics()
    key = await house.key(tags=["nowhere"])
    assert (await house.gateway.chat(key.token)).status == 200
    assert not (await house.event(key)).contained

    async def counted() -> bool:
        return (await house.gateway.metrics()) != before and 'misfits_total{action="shadow"}' in (
            await house.gateway.metrics()
        )

    await eventually(counted, what="the count of misfits")


async def test_of_what_is_asked_about_the_words_a_record_holds_so_much_and_the_rest_is_counted(house: World) -> None:
    key = await house.key(tags=[f"curious{number}" for number in range(4)])
    await house.gateway.chat(key.token)
    record = (await house.event(key)).record
    assert record is not None
    assert len(record.answers) == MAX_ANSWERS

    async def counted() -> bool:
        return f"catflap_policy_answers_dropped_total {4 * 70 - MAX_ANSWERS}.0" in await house.gateway.metrics()

    await eventually(counted, what="the count of what was left out")


async def test_leaving_before_the_first_token_is_charged_as_told_and_the_rest_to_the_defence(house: World) -> None:
    async def think(generation: Generation) -> None:
        await generation.gone.wait()

    for triton in house.tritons:
        triton.behave = think
    clean, marked = await house.key(), await contained(house)
    for key in (clean, marked):
        asking = asyncio.create_task(house.gateway.chat(key.token, stream=True))

        async def asked() -> bool:
            return any(triton.generations for triton in house.tritons)

        await eventually(asked, what="the generation")
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        for triton in house.tritons:
            triton.generations.clear()
    usual, record = await house.event(clean), await house.event(marked)
    assert (usual.outcome, record.outcome) == ("cancelled", "cancelled")
    assert usual.prompt_tokens == record.prompt_tokens > 0
    assert usual.beyond_prompt_tokens == 0 < record.beyond_prompt_tokens


async def test_several_answers_are_counted_as_for_all(house: World) -> None:
    clean, marked = await house.key(), await contained(house)
    one = Spelling("n", "/v1/completions", {"model": "demo", "prompt": [HI, "And?"], "n": 2, "max_tokens": 5}, 4)
    said, _ = await read(house, clean, one)
    assert (await read(house, marked, one))[0] == said
    answer: Answer = await house.gateway.post(one.path, marked.token, one.body)
    usage = (await answer.json())["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (len(HI) + len("And?"), 4)


FIRST_MS, GAP_MS = 250, 40


@pytest.mark.parametrize("piece", [5000, 7, 1])
async def test_a_phrase_that_the_model_says_is_noted_however_the_answer_is_cut(house: World, piece: int) -> None:
    """Its last piece is looked at, too, and one that is longer than what is remembered of those before it."""

    async def parrot(generation: Generation) -> None:
        said = CANARY.search(generation.request["text_input"])
        words = (
            "Purr. " * 20 + (said[0].split("that ")[1].upper() if said else "nothing") + ("x" * 450) * (piece == 5000)
        )
        for start in range(0, len(words), piece):
            await generation.send(event(words[start : start + piece], tokens=1, prompt_tokens=9))
        await generation.send(event("", finish="stop"))
        await generation.end()

    for triton in house.tritons:
        triton.behave = parrot
    clean, marked = await house.key(), await contained(house)
    for key in (clean, marked):
        assert (await house.gateway.chat(key.token, stream=True, max_tokens=400)).status == 200
    assert not (await house.event(clean)).canary_said
    assert (await house.event(marked)).canary_said


async def busy_day(world: World) -> None:
    """The ledger's record of a day on which `solo` was so slow."""
    key = await world.key()
    tokens, record = 21, key.record
    events = [
        RequestEvent(
            request=f"req_busy{number}", organisation=record.organisation, project=record.project,
            principal=record.principal, key=record.id, plan="open", endpoint="chat", model="solo",
            at_ms=clock.now_ms() - 1000 * number, outcome="completed", status=200, completion_tokens=tokens,
            ttft_ms=FIRST_MS, duration_ms=FIRST_MS + (tokens - 1) * GAP_MS,
        )
        for number in range(150)
    ]  # fmt: skip
    async with world.database.write() as connection:
        await connection.execute(request_event.insert(), [row_of(one) for one in events])


async def test_the_slow_get_the_times_of_a_busy_day_and_nothing_else_differs(house: World) -> None:
    async def quick(generation: Generation) -> None:
        await generation.say("a", "b", "c", "d")

    for triton in house.tritons:
        triton.behave = quick
    await busy_day(house)
    second = house.gateways[1]
    second.stop()
    second.start()
    await eventually(second.is_ready, within_s=20, what="the gateway's readiness")
    clean, late = await house.key(), await house.key(tags=["late"])

    async def served_late() -> bool:
        """Its times are read a moment after the start."""
        await second.chat(late.token, model="solo")
        return (await house.events(late))[-1].duration_ms >= FIRST_MS + 3 * GAP_MS

    await eventually(served_late, what="a late answer")
    said = [await (await second.chat(key.token, model="solo")).json() for key in (clean, late)]
    for body in said:
        del body["id"], body["created"]
    assert said[0] == said[1]
    answer = await second.chat(late.token, model="solo", stream=True)
    frames = [frame async for frame in answer.events()]
    assert sum('"content"' in frame for frame in frames) >= 4  # one by one, not in lumps
    event = (await house.events(late))[-1]
    assert event.contained
    assert event.ttft_ms is not None
    assert event.ttft_ms >= FIRST_MS
    (usual,) = await house.events(clean)
    assert not usual.contained
