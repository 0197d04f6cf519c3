"""Whoever floods the gateway with long prompts waits for their own counts and for hardly anyone else's."""

import asyncio
import threading
from collections.abc import Callable

import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE

from gateway.core.errors import RateLimited
from gateway.core.prompt import Prompt
from gateway.dataplane.counting import MAX_WAITING, Counting
from gateway.dataplane.measure import Measured, measure
from gateway.fleet.file import Model, TritonModel
from gateway.fleet.models import ServedModel
from gateway.fleet.tokens import LONG_TEXT, TokenizerCounter
from tests.support.eventually import eventually

CONTEXT = 2 * LONG_TEXT


class SlowCounter(TokenizerCounter):
    """Counts only when it is let, and remembers in which order and in which threads."""

    def __init__(self) -> None:
        super().__init__(Tokenizer(BPE({"a": 0}, [])))
        self.let, self.begun = threading.Semaphore(0), list[str]()
        self.threads: set[str] = set()

    def count_now(self, text: str) -> int:
        self.begun.append(text[0])
        self.threads.add(threading.current_thread().name)
        assert self.let.acquire(timeout=10)
        return 1


async def measured(
    counter: SlowCounter, counting: Counting, who: str, texts: int = 1, length: int = CONTEXT
) -> Measured:
    entry = Model(name="m", triton=TritonModel("m"), endpoints=("a",), context_tokens=CONTEXT, max_output_tokens=9,
                  tokenizer="t")  # fmt: skip
    prompt = Prompt(endpoint="completions", model="m", texts=(who * length,) * texts)
    served = ServedModel(entry, frozenset(), counter, None, ())

    def aside(work: Callable[[], list[int]]) -> asyncio.Future[list[int]]:
        return asyncio.ensure_future(counting.run(who, work))

    return await measure(prompt, prompt.texts, served, 5, (), aside, exactly=True)


async def until(true: Callable[[], bool]) -> None:
    await eventually(true, what="the counts")


async def test_a_flood_of_one_principal_delays_another_by_a_count_at_most() -> None:
    counter, counting = SlowCounter(), Counting(threads=1)
    flood = [asyncio.create_task(measured(counter, counting, "a")) for _ in range(32)]
    await until(lambda: counter.begun == ["a"])
    others = [asyncio.create_task(measured(counter, counting, who)) for who in "bcb"]
    await asyncio.sleep(0)
    counter.let.release(40)
    assert all(found.ceiling.prompt_tokens == 1 for found in await asyncio.gather(*flood, *others))
    assert counter.begun[:6] == ["a", "b", "c", "a", "b", "a"]
    await until(lambda: counting.principals == 0)


async def test_a_principal_counts_one_prompt_at_a_time_whatever_is_free() -> None:
    counter, counting = SlowCounter(), Counting(threads=3)
    flood = [asyncio.create_task(measured(counter, counting, "a")) for _ in range(5)]
    await until(lambda: counter.begun == ["a"])
    other = asyncio.create_task(measured(counter, counting, "b"))
    await until(lambda: counter.begun == ["a", "b"])
    counter.let.release(6)
    await asyncio.gather(*flood, other)
    await until(lambda: counting.principals == 0)


async def test_prompts_that_are_long_together_are_counted_in_one_turn_and_off_the_event_loop() -> None:
    counter, counting = SlowCounter(), Counting()
    counter.let.release(16)
    assert (await measured(counter, counting, "a", texts=16, length=LONG_TEXT - 4)).ceiling.prompt_tokens == 16
    (thread,) = counter.threads
    assert thread.startswith("count")


async def test_too_many_waiting_counts_of_one_principal_are_refused_and_others_are_not() -> None:
    counter, counting = SlowCounter(), Counting(threads=1)
    flood = [asyncio.create_task(measured(counter, counting, "a")) for _ in range(1 + MAX_WAITING)]
    await until(lambda: counter.begun == ["a"])
    with pytest.raises(RateLimited, match="wait to be counted") as refused:
        await measured(counter, counting, "a")
    assert refused.value.retry_after_ms == 1000
    other = asyncio.create_task(measured(counter, counting, "b"))
    counter.let.release(2 + MAX_WAITING)
    await asyncio.gather(*flood, other)


async def test_who_leaves_gives_a_place_in_the_line_back_at_once_and_a_thread_when_it_is_done() -> None:
    counter, counting = SlowCounter(), Counting(threads=1)
    tasks = [asyncio.create_task(measured(counter, counting, who)) for who in "aaab"]
    await until(lambda: counter.begun == ["a"] and counting.principals == 2)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await until(lambda: counting.principals == 1)
    last = asyncio.create_task(measured(counter, counting, "a"))
    await asyncio.sleep(0.02)
    assert counter.begun == ["a"]  # the first one's thread still counts
    counter.let.release(2)
    await last
    assert counter.begun == ["a", "a"]
    await until(lambda: counting.principals == 0)


async def test_a_turn_that_comes_as_its_owner_leaves_goes_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    counter, counting = SlowCounter(), Counting(threads=1)
    first, second, third = (asyncio.create_task(counting.run("a", lambda: counter.count_now("a"))) for _ in range(3))
    await until(lambda: counter.begun == ["a"])
    leave = counting._leave
    monkeypatch.setattr(counting, "_leave", lambda who: (leave(who), second.cancel()))
    counter.let.release(2)
    assert (await first, await third) == (1, 1)
    assert second.cancelled()
    await until(lambda: counting.principals == 0)
