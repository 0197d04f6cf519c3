"""What is called a hang, on real processes and a clock made quick."""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.embedded import vigil
from gateway.embedded.service import LogReader, Service

IDLE, BUSY = "input()", "while True: pass"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = {"LOOK_S": 0.01, "AGAIN_S": 0.01, "ANSWER_S": 0.1, "LEAST_SILENCE_S": 0.15, "BUSY_S": 1.5}
    for name, value in quick.items():
        monkeypatch.setattr(vigil, name, value)


class Asked:
    """Looks that answer or not, in turn; the last one for ever. `trouble` likewise."""

    def __init__(self, *looks: str | None, trouble: tuple[str | None, ...] = (None,)) -> None:
        self.looks = list(looks)
        self.troubles = list(trouble)

    async def look(self, pid: int) -> str | None:
        answer = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        if answer == "silence":
            await asyncio.Event().wait()
        return answer

    async def trouble(self) -> str | None:
        return self.troubles.pop(0) if len(self.troubles) > 1 else self.troubles[0]


@asynccontextmanager
async def watched(program: str, asked: Asked, say: Callable[[str], None] = print) -> AsyncIterator[vigil.Vigil]:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdin=asyncio.subprocess.PIPE)
    log = Path("no-such-log")
    service = Service(name="It", command=(), environment={}, log=log, look=asked.look, trouble=asked.trouble)
    try:
        yield vigil.Vigil(service, process, LogReader(log), say)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def test_two_questions_without_an_answer_are_a_hang() -> None:
    async with watched(IDLE, Asked(None, "silence")) as it:
        assert (await asyncio.wait_for(it.illness(), 10)).startswith("hangs: it does not answer (")


async def test_what_does_not_answer_is_named_when_the_look_can() -> None:
    async with watched(IDLE, Asked("the model m does not answer")) as it:
        assert "hangs: the model m does not answer" in await asyncio.wait_for(it.illness(), 10)


async def test_one_lost_answer_is_no_hang() -> None:
    async with watched(IDLE, Asked(None, "silence", None)) as it:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(it.illness(), 1)


async def test_a_silent_process_that_works_is_given_a_minute() -> None:
    async with watched(BUSY, Asked(None, "silence")) as it:
        began = time.monotonic()
        assert "hangs" in await asyncio.wait_for(it.illness(), 20)
        assert time.monotonic() - began > vigil.BUSY_S


async def test_an_end_is_seen_while_a_question_waits() -> None:
    async with watched("raise SystemExit(3)", Asked("silence")) as it:
        assert await asyncio.wait_for(it.illness(), 10) == "ended with status 3"


async def test_trouble_is_said_once_and_its_end_once() -> None:
    said: list[str] = []
    asked = Asked(None, trouble=(None, "cannot write", "cannot write", None))
    async with watched(IDLE, asked, said.append) as it:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(it.illness(), 0.5)
    assert said == ["It: cannot write", "It: goes on"]
