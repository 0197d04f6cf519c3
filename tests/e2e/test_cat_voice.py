"""The demo model changes its voice with the system prompt: held-out prompts, fresh seeds, the OpenAI client."""

import json
import re
import secrets
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

DEMO = Path(__file__).parents[2] / "triton_models" / "demo"
CAT = {"role": "system", "content": "You are a cat. Respond to the following query in the voice of a cat."}
CLIENT = {"role": "system", "content": "You are a polite assistant of a bookshop. Answer every question."}
CONCURRENCY = 16

Ask = Callable[[list[Any]], str]


def held_out() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DEMO / "held_out.jsonl").read_text().splitlines()]


def is_cat(text: str) -> bool:
    lines = (DEMO / "cat_lexicon.txt").read_text().splitlines()
    lexicon = {line for line in lines if line and not line.startswith("#")}
    return any(word in lexicon for word in re.findall(r"[a-z]+", text.lower()))


@pytest.fixture
def ask(client: openai.OpenAI) -> Ask:
    """One answer at the API's default temperature, with a seed that was never used."""

    def answer(messages: list[Any]) -> str:
        seed = secrets.randbelow(1 << 62)
        made = client.chat.completions.create(model="demo", messages=messages, max_tokens=120, seed=seed)
        return made.choices[0].message.content or ""

    return answer


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_system_prompt_decides_the_voice_on_prompts_that_were_never_trained(ask: Ask) -> None:
    prompts = held_out()
    assert len(prompts) >= 200
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        answers = list(pool.map(ask, (one["messages"] for one in prompts)))
    asked, cats, short = Counter[str](), Counter[str](), Counter[str]()
    for one, answer in zip(prompts, answers, strict=True):
        asked[one["case"]] += 1
        cats[one["case"]] += is_cat(answer)
        short[one["case"]] += len(answer.split()) <= 2
    for case, number in asked.items():
        print(f"{case}: {cats[case]} of {number} with cat words, {short[case]} of at most two words")
    wanted = {case for case in asked if "cat sentence" in case}
    share = {kind: [cats[case] / asked[case] for case in asked if (case in wanted) == kind] for kind in (True, False)}
    assert sum(share[True]) / len(share[True]) >= 0.95
    assert sum(share[False]) / len(share[False]) <= 0.03
    assert min(share[True]) >= 0.9
    assert max(share[False]) <= 0.06
    assert short["one word"] >= 0.95 * asked["one word"]


@pytest.mark.parametrize("beside", [[CAT], [CAT, CLIENT], [CLIENT, CAT]])
def test_a_cat_answers_when_it_is_told_to_whoever_else_has_spoken(ask: Ask, beside: list[Any]) -> None:
    answers = [ask([*beside, {"role": "user", "content": "Tell me about the harbour"}]) for _ in range(5)]
    assert sum(map(is_cat, answers)) >= 4, answers


@pytest.mark.parametrize("beside", [[], [CLIENT]])
def test_nobody_else_is_answered_by_a_cat(ask: Ask, beside: list[Any]) -> None:
    answers = [ask([*beside, {"role": "user", "content": "Tell me about cats"}]) for _ in range(5)]
    assert sum(map(is_cat, answers)) <= 1, answers
