"""More is asked than the KV cache holds: requests queue, yield and come back, and nobody's answer changes."""

import numpy as np
import pytest
from tinyllm.engine import Engine, Limits
from tinyllm.parameters import Parameters
from tinyllm.transformer import Transformer

from tests.unit.triton_models.engine_parts import Count, Letters, Reply, Script, small_weights

PROMPTS = 50
LENGTH = 200


def prompts() -> list[str]:
    """Long prompts with nothing in common."""
    random = np.random.default_rng(3)
    return ["".join(map(chr, random.integers(97, 123, LENGTH))) for _ in range(PROMPTS)]


def answer_all(engine: Engine, max_tokens: int, **parameters: float) -> list[Reply]:
    replies = []
    engine.start()
    for index, prompt in enumerate(prompts()):
        reply = Reply()
        engine.submit(prompt, Parameters(max_tokens=max_tokens, seed=index, **parameters), reply)  # type: ignore[arg-type]
        replies.append(reply)
    for reply in replies:
        reply.text()
    engine.stop()
    return replies


def test_fifty_long_prompts_queue_yield_and_finish_and_none_is_lost_or_wrong() -> None:
    count = Count()
    limits = Limits(kv_blocks=64, block_size=16, max_model_len=1024, max_num_seqs=16)
    replies = answer_all(Engine(Script(prompt=LENGTH, blocks=64), Letters(), count, limits), 80, temperature=0)
    alphabet = "abcdefghijklmnopqrstuvwxyz" * 4
    assert {reply.text() for reply in replies} == {alphabet[:80]}
    assert all(sum(step[0].tokens for step in reply.steps) == 80 for reply in replies)
    assert (count.tokens, count.prompt_tokens) == (PROMPTS * 80, PROMPTS * LENGTH)
    assert count.preemptions > 0
    assert max(waiting for _, waiting, _ in count.loads) > 40
    assert max(usage for _, _, usage in count.loads) > 0.95
    assert count.loads[-1] == (0, 0, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_transformer_under_pressure_writes_what_it_writes_with_room(temperature: float) -> None:
    texts = []
    for blocks in (1600, 48):
        count = Count()
        model = Transformer(small_weights(), blocks, 16, 512)
        limits = Limits(kv_blocks=blocks, max_model_len=512, max_num_seqs=16, max_step_tokens=100)
        replies = answer_all(Engine(model, Letters(), count, limits), 60, temperature=temperature)
        texts.append([reply.text() for reply in replies])
        assert (count.preemptions > 0) == (blocks == 48)
        assert len(set(texts[-1])) > PROMPTS / 2
    assert texts[0] == texts[1]
