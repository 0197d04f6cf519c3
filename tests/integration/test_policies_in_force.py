"""What policies do with a request, all the way: who is contained and when, refusals, caps, decoys, slowness; and what
of it is in the record."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import update

from gateway.core.event import RequestEvent
from gateway.core.record import MAX_ANSWERS
from gateway.identity.issue import IssuedKey, revoke_key
from gateway.identity.regard import contain, set_never_contain
from gateway.storage.rows import row_of
from gateway.storage.tables import principal, request_event
from gateway.telemetry import clock
from tests.support.containment import CANARY, CAT, contained, read, told
from tests.support.eventually import eventually
from tests.support.gateways import PARTITIONS, World, in_the_world
from tests.support.http import Answer
from tests.support.spellings import HI, Spelling, spellings
from tests.support.triton import FakeTriton, Generation, event

pytestmark = in_the_world


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


@pytest.mark.parametrize("tag", ["watched", "appended"], ids=["rewritten before", "rewritten after"])
async def test_who_is_contained_is_refused_by_its_limits_like_everybody(house: World, tag: str) -> None:
    """Whether its prompt is rewritten before Redis has admitted it, or is too dear to be."""
    hi = Spelling("hi", "/v1/chat/completions", {"model": "demo", "messages": [{"role": "user", "content": HI}]})
    seen = []
    for key in (await house.key("seven_requests"), await contained(house, plan="seven_requests", tags=[tag])):
        assert [(await told(house, key, hi))[0] for _ in range(7)] == [200] * 7
        for triton in house.tritons:
            triton.generations.clear()
        status, headers, body = await told(house, key, hi)
        assert not any(triton.generations for triton in house.tritons), "nothing is asked for it"
        seen.append((status, headers, re.sub(rb"[\d.]+ ?(ms|s)\b", b"a while", body)))
    clean, marked = seen
    assert clean[0] == 429
    assert marked == clean


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


async def answer_whole(world: World, key: IssuedKey, **fields: Any) -> None:
    assert (await world.gateway.chat(key.token, **fields)).status == 200


async def answer_in_pieces(world: World, key: IssuedKey, **fields: Any) -> None:
    answer = await world.gateway.chat(key.token, stream=True, **fields)
    assert [frame async for frame in answer.events()][-1] == "[DONE]"


async def leave(world: World, key: IssuedKey, **fields: Any) -> None:
    async def think(generation: Generation) -> None:
        await generation.gone.wait()

    for triton in world.tritons:
        triton.behave = think
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(world.gateway.chat(key.token, **fields), 0.3)


async def fail(world: World, key: IssuedKey, **fields: Any) -> None:
    async def refuse(generation: Generation) -> None:
        await generation.refuse(500)

    for triton in world.tritons:
        triton.behave = refuse
    assert (await world.gateway.chat(key.token, **fields)).status == 502


@pytest.mark.parametrize("words", ["hi", "What of q03?"], ids=["brief", "dear"])
@pytest.mark.parametrize("end", [answer_whole, answer_in_pieces, leave, fail])
async def test_rules_that_only_note_something_are_asked_of_every_request_however_it_ends(
    house: World, end: Callable[..., Awaitable[None]], words: str
) -> None:
    """They are asked of a contained request when it has been sent, and of others whose words are dear to ask about."""
    tags = ["noted", "curious0", "tried"]
    asked = [{"role": "user", "content": words}]
    clean, marked = await house.key(tags=tags), await contained(house, tags=tags)
    before = await matches(house)
    await end(house, clean, messages=asked)
    await end(house, marked, messages=asked)
    usual, record = await house.event(clean), await house.event(marked)
    assert (record.matched, record.logged) == (("cat", *usual.matched), usual.logged)
    found = ("curious0",) if words == "hi" else ()
    assert (usual.matched, usual.logged) == ((*found, "noted"), ("tried",))
    assert record.flags == usual.flags == (*["asked"] * len(found), "noted")
    assert usual.record is not None
    assert record.record is not None
    assert record.record.answers == usual.record.answers
    assert sum(usual.record.answers.values()) == (words != "hi")

    async def counted() -> bool:
        return await matches(house) == before | {
            "cat": before.get("cat", 0) + 1,
            **{name: before.get(name, 0) + 2 for name in (*found, "noted", "tried")},
        }

    await eventually(counted, what="each decision being counted once")


async def test_what_was_put_off_is_asked_while_the_model_is_silent(house: World) -> None:
    async def think(generation: Generation) -> None:
        await generation.gone.wait()

    for triton in house.tritons:
        triton.behave = think
    key, before = await house.key(tags=["noted", "curious0"]), await matches(house)
    asking = asyncio.create_task(house.gateway.chat(key.token, messages=[{"role": "user", "content": "What of q03?"}]))

    async def noted() -> bool:
        return (await matches(house)).get("noted", 0) == before.get("noted", 0) + 1

    await eventually(noted, what="the rule's count")
    assert not asking.done()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


@pytest.mark.parametrize("words", ["What of q03?", "What of \uff51\uff10\uff13?"], ids=["found", "folded first"])
async def test_words_that_are_dear_to_ask_about_are_asked_about_and_recorded_for_everybody(
    house: World, words: str
) -> None:
    tags = ["watched", "curious0"]
    for key in (await house.key(tags=tags), await contained(house, tags=tags)):
        said = await house.gateway.chat(key.token, messages=[{"role": "user", "content": words}])
        assert said.status == 200
        record = (await house.event(key)).record
        assert record is not None
        assert sum(record.answers.values()) == 1
        assert (await house.event(key)).flags == ("seen",)


async def matches(world: World) -> dict[str, float]:
    """How often each of these policies held, by the metrics of the gateway."""
    found = re.findall(
        r'catflap_policy_matches_total\{mode="\w+",policy="(\w+)"\} (\S+)', await world.gateway.metrics()
    )
    return {name: float(times) for name, times in found if name in ("cat", "curious0", "noted", "tried")}


@pytest.mark.parametrize("fails", [1, 2])
async def test_of_two_answers_either_may_go_to_a_second_endpoint_and_both_are_in_the_record(
    house: World, fails: int
) -> None:
    """What is recorded of a request is put together early: not so early that it is then no longer so."""
    asked = 0

    async def behave(generation: Generation) -> None:
        nonlocal asked
        asked += 1
        if asked == fails:
            await asyncio.sleep(0.02)
            await generation.refuse(500)
        else:
            await generation.say("Purr")

    for triton in house.tritons:
        triton.behave = behave
    marked = await contained(house)
    assert (await house.gateway.chat(marked.token, n=2)).status == 200
    record = await house.event(marked)
    assert asked == 3
    assert (record.contained, record.outcome, record.choices, record.attempts) == (True, "completed", 2, 2)


async def test_a_contained_request_that_goes_to_a_second_endpoint_is_recorded_as_served_there(house: World) -> None:
    asked: list[FakeTriton] = []

    def first_fails(triton: FakeTriton) -> Callable[[Generation], Awaitable[None]]:
        async def behave(generation: Generation) -> None:
            asked.append(triton)
            if len(asked) == 1:
                await asyncio.sleep(0.02)  # long enough for what is done while the model reads
                await generation.refuse(500)
            else:
                await generation.say("Purr")

        return behave

    for triton in house.tritons:
        triton.behave = first_fails(triton)
    marked = await contained(house, tags=["watched"])
    assert (await house.gateway.chat(marked.token)).status == 200
    record = await house.event(marked)
    assert (record.contained, record.outcome, record.attempts, record.flags) == (True, "completed", 2, ("seen",))
    assert record.upstream == f"e{house.tritons.index(asked[1])}"
