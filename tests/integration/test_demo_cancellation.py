"""A client leaves while the demo model reads a prompt of nearly its whole context, or writes: when does it stop?

The evidence is the engine's own: its gauge of running requests and its counter of generated tokens, which it sets
between two steps. A thread reads them every few milliseconds. A stop is taken to be when the first reading that says so
has arrived, and a leaving when the last reading before it had: so times and tokens are upper bounds.
"""

import asyncio
import random
import re
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import NamedTuple

import pytest

from gateway.core.prompt import Sampling
from gateway.fleet.file import parse_fleet
from gateway.fleet.health import Health
from gateway.fleet.models import ServedModel, load_models
from gateway.fleet.router import Asked, Choice, Router
from gateway.fleet.transports.client import Timeouts
from lab.paced import ROADS, Road, by
from tests.integration.embedded_fixtures import FLEET, Triton, need_triton, triton_running
from tests.support.eventually import eventually
from tests.support.tokens import demo_tokens

pytestmark = pytest.mark.slow
NEARLY_ALL = 2000
"""Tokens of a prompt, of the 2,048 that the context holds."""
LEAVINGS = 5
ROUNDS = 5
"""Of so many leavings each; in one of them all must be in time. Where other programs take the processors for a while, a
round is lost; an engine whose steps were too long, or that asked too seldom, would lose them all."""
EVERY_S = 0.004
"""Between two readings: on a small machine, reading without a pause would slow down what is measured."""
TOKENS = 900
STORY = "<|user|>\nTell me a long story.\n<|assistant|>\n"
TOLD = re.compile(rb"^vllm:(num_requests_running|generation_tokens_total)\{.*\} (\S+)$", re.MULTILINE)


class Reading(NamedTuple):
    """What the engine's metrics said, between the time when they were asked for and the time when it had arrived."""

    asked: float
    at: float
    running: float
    generated: float


class Left(NamedTuple):
    """What came of a leaving: milliseconds until the engine stopped, and the tokens that it made by then."""

    ms: float
    tokens: int


class Watch:
    """Reads the engine's metrics again and again, in a thread."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self.readings = [self._read()]

    @contextmanager
    def watching(self) -> Iterator["Watch"]:
        """From here to the end of the block."""
        self._thread.start()
        try:
            yield self
        finally:
            self._over.set()
            self._thread.join()

    @property
    def last(self) -> Reading:
        """The newest reading."""
        return self.readings[-1]

    async def running(self, number: int) -> Reading:
        """The first reading from now on with so many requests running."""
        after = time.monotonic()

        def found() -> list[Reading]:
            return [one for one in self.readings if one.asked > after and one.running == number]

        return (await eventually(found, within_s=20, what=f"{number} running"))[0]

    def _live(self) -> None:
        while not self._over.is_set():
            self.readings.append(self._read())
            self._over.wait(EVERY_S)

    def _read(self) -> Reading:
        asked = time.monotonic()
        with urllib.request.urlopen(self._url, timeout=10) as response:
            told = dict(TOLD.findall(response.read()))
        running, generated = float(told[b"num_requests_running"]), float(told[b"generation_tokens_total"])
        return Reading(asked, time.monotonic(), running, generated)


class House:
    """The demo model, reached by one road, and the watch over its engine."""

    def __init__(self, watch: Watch, router: Router, model: ServedModel) -> None:
        self.watch = watch
        self._router = router
        self._model = model

    async def open(self, prompt: str, tokens: int) -> Choice:
        """A generation whose first token is there. It babbles, and so goes on for as long as it may."""
        hot = Sampling(temperature=100, seed=1)
        return await self._router.open(self._model, prompt, Asked(hot, tokens, None), 0, [])

    async def read(self, choice: Choice, least: int) -> int:
        """Read so many tokens or a few more, or to the end; how many they were."""
        count = 0
        while count < least and (deltas := await choice.read()):
            count += sum(delta.completion_tokens for delta in deltas)
        return count


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    need_triton()
    with triton_running(tmp_path_factory.mktemp("data")) as running:
        yield running


@asynccontextmanager
async def house(triton: Triton, road: Road) -> AsyncIterator[House]:
    fleet = by(road, parse_fleet(FLEET.read_text(), str(FLEET), str(FLEET.parent), triton.environment))
    health = Health(fleet)
    router = Router(fleet, health, Timeouts(1.0, 30.0, 30.0))
    probing = asyncio.create_task(health.watch())
    try:
        await eventually(lambda: health.ready("embedded", "demo"), within_s=20, what="the model's readiness")
        with Watch(triton.metrics_url).watching() as watch:
            yield House(watch, router, load_models(fleet)["demo"])
    finally:
        probing.cancel()
        await asyncio.gather(probing, return_exceptions=True)
        await router.close()


def long_prompt() -> str:
    """A prompt that was never read before, not even its beginning: no cache spares anything of it."""
    words = ["<|user|>\n"]
    while demo_tokens("".join(words)) < NEARLY_ALL:
        words.append(f"{random.getrandbits(64):x} tea ")
    return "".join(words)


async def prefill_ms(at: House) -> float:
    """How long the engine takes to read a long prompt when nobody leaves."""
    began = time.monotonic()
    choice = await at.open(long_prompt(), 1)
    ms = (time.monotonic() - began) * 1000
    assert await at.read(choice, 2) == 1
    choice.close()
    return ms


async def left_in_prefill(at: House) -> Left:
    """The client leaves 100 ms after its prompt has begun to be read."""
    before = (await at.watch.running(0)).generated
    asked = asyncio.create_task(at.open(long_prompt(), 40))
    await at.watch.running(1)
    await asyncio.sleep(0.1)
    assert at.watch.last.generated == before
    asked.cancel()
    return await stopped(at, before)


async def left_in_decode(at: House) -> Left:
    """The client leaves when it has had eight tokens, or a few more."""
    before = (await at.watch.running(0)).generated
    choice = await at.open(STORY, TOKENS)
    await at.read(choice, 8)
    leaving = at.watch.last.generated
    choice.close()
    left = await stopped(at, leaving)
    # Where the last token came before the client did leave, the leaving stopped nothing.
    return left if at.watch.last.generated < before + TOKENS else left._replace(tokens=TOKENS)


async def stopped(at: House, generated: float) -> Left:
    """What comes of the leaving that has just happened; `generated` were counted before it."""
    left = time.monotonic()
    reading = await at.watch.running(0)
    await asyncio.sleep(0.1)  # time in which an engine that went on would count
    assert at.watch.last.generated == reading.generated
    return Left((reading.at - left) * 1000, int(reading.generated - generated))


async def all_in_time(leave: Callable[[], Awaitable[Left]], in_time: Callable[[Left], bool]) -> bool:
    """Whether one of the rounds had none that was late; prints them."""
    for _ in range(ROUNDS):
        round_of = [await leave() for _ in range(LEAVINGS)]
        print("stopped after " + "; ".join(f"{one.ms:.0f} ms, {one.tokens} tokens" for one in sorted(round_of)))
        if all(map(in_time, round_of)):
            return True
    return False


async def test_over_grpc_the_engine_stops_within_50_ms_of_a_leaving_in_the_prefill(triton: Triton) -> None:
    async with house(triton, "grpc") as at:
        whole = await prefill_ms(at)
        print(f"\nthe whole prefill: {whole:.0f} ms; then over gRPC, left in it")
        assert await all_in_time(partial(left_in_prefill, at), lambda left: left.ms < 50 and left.tokens == 0)
    assert whole > 200  # long enough that a leaving at 100 ms was in it, and that 50 ms are not its end


async def test_over_http_the_engine_stops_at_its_first_write_after_a_leaving_in_the_prefill(triton: Triton) -> None:
    async with house(triton, "http") as at:
        print(f"\nthe whole prefill: {await prefill_ms(at):.0f} ms; then over HTTP, left in it")
        assert await all_in_time(partial(left_in_prefill, at), lambda left: 1 <= left.tokens <= 10)


@pytest.mark.parametrize("road", ROADS)
async def test_on_both_roads_the_engine_stops_within_ten_tokens_of_a_leaving_in_the_decode(
    triton: Triton, road: Road
) -> None:
    async with house(triton, road) as at:
        assert await at.read(await at.open(STORY, TOKENS), TOKENS) == TOKENS
        print(f"\nover {road}, left in the decode")
        assert await all_in_time(partial(left_in_decode, at), lambda left: left.tokens <= 10)
