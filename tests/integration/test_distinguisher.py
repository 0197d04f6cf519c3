"""An attacker with a clean and a contained key, in short: every kind of request, every known leak, no word about time.
`catflap lab distinguish` is the long form."""

import pytest
import pytest_asyncio

from lab.distinguish.leaks import LEAKS, TIMING
from lab.distinguish.run import Result, run_async
from lab.distinguish.upstream import Rates

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.asyncio(loop_scope="module")]

PAIRS = 60


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def result() -> Result:
    return await run_async(pairs=PAIRS, seed=1, rates=Rates(), say=lambda line: None)


async def test_no_exact_channel_tells_a_contained_key_from_a_clean_one(result: Result) -> None:
    assert result.attack.pairs > PAIRS
    assert not [(one.name, one.kinds, one.first) for one in result.attack.differing]


async def test_the_contained_prompts_were_rewritten_on_every_endpoint_and_the_clean_ones_never(result: Result) -> None:
    assert result.proof.problems == []
    assert result.proof.contained == result.proof.clean
    assert {path.rpartition("/")[2] for path in result.proof.contained} == {
        "completions",
        "generate",
        "generate_stream",
    }


async def test_two_clean_keys_are_not_told_apart(result: Result) -> None:
    assert not [(one.name, one.kinds, one.first) for one in result.null.differing]


async def test_every_known_leak_is_found(result: Result) -> None:
    assert len(result.controls) == len(LEAKS)
    assert [one.leak for one in result.controls if not one.found and one.channel != TIMING] == []
    assert result.refusals >= 30
