"""Policies that contain, in force in the world's gateways; what a client is told there, and what the model reads."""

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from gateway.identity.issue import IssuedKey
from gateway.identity.regard import contain
from tests.support.eventually import eventually
from tests.support.gateways import PARTITIONS, World
from tests.support.spellings import Spelling
from tests.support.triton import Generation, event

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
    "appended": ('"appended" in principal.tags', [{"rewrite": {"append_system": "Purr."}}], {"covert": True}),
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
    "noted": ('"noted" in principal.tags', [{"flag": "noted"}], {"covert": True}),
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
async def containing_rules(whole_world: World) -> AsyncIterator[None]:
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
def house(world: World, containing_rules: None) -> World:
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
