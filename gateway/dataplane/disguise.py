"""A contained request: what it really used is kept, what its client is told is what it would have been."""

import asyncio
from typing import NamedTuple

import msgspec

from gateway.canary.phrase import Words, phrase_of
from gateway.core.delta import Delta, Usage
from gateway.core.event import RequestEvent
from gateway.core.fold import fold
from gateway.core.prompt import Prompt
from gateway.dataplane.call import Call, count_into
from gateway.evidence.writer import Evidence
from gateway.fleet.models import ServedModel, region_of
from gateway.fleet.router import Choice
from gateway.policy.disguise import Retelling, beyond, told, told_finish
from gateway.quota.note import cost_of

COUNT_AFTER_S = 0.001
"""The untouched prompt is counted once the touched one is on its way: while the model reads, nobody waits for it."""


class Work(NamedTuple):
    """What is sent to a model: texts, and the most output tokens of each choice."""

    model: ServedModel
    texts: tuple[str, ...]
    max_tokens: int


class Disguise:
    """See the module. `prompt`: as it is sent. `lowered`: the answer may be shorter than the client was granted.
    `shadow`: who serves in the model's place. `words`: of the canary. `pace`: milliseconds to the first token, and
    between tokens, before which none is told."""

    def __init__(
        self,
        call: Call,
        work: Work,
        prompt: Prompt,
        *,
        lowered: bool,
        shadow: str | None,
        words: Words | None,
        pace: tuple[float, float] | None,
    ) -> None:
        assert isinstance(call.model, ServedModel)
        self.call = call
        self.work = work
        self.prompt = prompt
        self.lowered = lowered
        self.shadow = shadow
        self.words = words
        self.pace = pace
        self.real = Usage()
        self.answers: list[list[str]] = [[] for _ in range(call.choices)]
        self._real_prompts: dict[int, int] = {}
        self._nominal = call.model
        self._counting = asyncio.create_task(self._count())

    async def _count(self) -> list[int]:
        if self.work.texts == self.call.texts and self.shadow is None:
            return []
        await asyncio.sleep(COUNT_AFTER_S)
        return await self._nominal.count_each(self.call.texts, asyncio.to_thread)

    def over(self, choices: list[Choice]) -> "list[DisguisedChoice]":
        """Choices that tell what the client is to be told."""
        return [DisguisedChoice(self, choice, number) for number, choice in enumerate(choices)]

    async def tell(self, delta: Delta) -> None:
        """Keep what the delta really used, and put what the client is told in its place."""
        count_into(self.real, self._real_prompts, delta, self.call.choices, len(self.work.texts))
        self.answers[delta.choice].append(delta.text)
        delta.finish_reason = told_finish(delta.finish_reason, lowered=self.lowered)
        if delta.prompt_tokens and (counts := await asyncio.shield(self._counting)):
            untouched = counts[delta.choice * len(counts) // self.call.choices]
            block = self._nominal.entry.cache_block_tokens
            shown = told(Usage(delta.prompt_tokens, 0, delta.cached_tokens), untouched, cache_block=block)
            delta.prompt_tokens, delta.cached_tokens = shown.prompt_tokens, shown.cached_tokens

    def retelling(self) -> Retelling | None:
        """Of one choice, where another model's tokens are to be counted as the nominal one's."""
        if self.work.model.counter is self._nominal.counter:
            return None
        return Retelling(self._nominal.counter.count_now, self.call.measured.max_tokens)

    async def wait(self, tokens: int) -> None:
        """Until the token with this number, from 0, may be told."""
        if self.pace is not None:
            first_ms, gap_ms = self.pace
            due_ms = first_ms + gap_ms * tokens
            await asyncio.sleep(max(due_ms - self.call.exchange.elapsed_ms(), 0) / 1000)

    async def read_by_none(self) -> None:
        """The client left before the first token: the model reads the touched prompt all the same."""
        if not self.real.prompt_tokens:
            self.real.prompt_tokens = sum(await self.work.model.count_each(self.work.texts, asyncio.to_thread))

    def marked(self, event: RequestEvent) -> RequestEvent:
        """The event of what was told, with what operators know beside it."""
        more = beyond(self.real, self.call.usage)
        price = self.work.model.price
        kv_cost = self.call.kv_cost_of(price, self.real)
        return msgspec.structs.replace(
            event,
            contained=True,
            shadow=self.shadow,
            canary_said=self.said(),
            region=region_of(self.work.model, self.call.upstream),
            beyond_prompt_tokens=more.prompt_tokens,
            beyond_cached_tokens=more.cached_tokens,
            beyond_completion_tokens=more.completion_tokens,
            beyond_cost=max(cost_of(price.weights, self.real) + kv_cost - event.cost, 0),
        )

    def said(self) -> bool:
        """Whether the principal's own phrase is in an answer."""
        if self.words is None:
            return False
        phrase = phrase_of(self.words)
        return any(phrase in fold("".join(answer)) for answer in self.answers)

    def evidence(self) -> Evidence:
        """What is kept for operators."""
        call = self.call
        assert call.caller is not None and call.prompt is not None
        return Evidence(
            request=call.exchange.request_id,
            organisation=call.caller.organisation,
            principal=call.caller.principal,
            at_ms=call.exchange.arrived_ms,
            asked=msgspec.json.encode(call.prompt),
            sent=msgspec.json.encode(self.prompt),
            answers=tuple("".join(answer) for answer in self.answers),
        )

    def close(self) -> None:
        """The request is over."""
        self._counting.cancel()


class DisguisedChoice:
    """One choice of a contained request; reads as the ordinary one would have."""

    __slots__ = ("_choice", "_disguise", "_number", "_retelling", "_tokens")

    def __init__(self, disguise: Disguise, choice: Choice, number: int) -> None:
        self._disguise = disguise
        self._choice = choice
        self._number = number
        self._retelling = disguise.retelling()
        self._tokens = 0

    @property
    def finished(self) -> bool:
        """As Choice's."""
        return self._choice.finished

    async def read(self) -> list[Delta]:
        """As Choice's."""
        deltas = await self._choice.read()
        if not deltas:
            return deltas
        self._tokens += sum(delta.completion_tokens for delta in deltas)
        await self._disguise.wait(max(self._tokens - 1, 0))
        for delta in deltas:
            await self._disguise.tell(delta)
        return deltas if self._retelling is None else [self._retelling.feed(delta) for delta in deltas]

    def close(self) -> None:
        """As Choice's. What was told of a decoy's answer that did not end is counted now."""
        if self._retelling is not None and not self._choice.finished:
            self._disguise.call.usage.completion_tokens += self._retelling.tokens()
        self._choice.close()
