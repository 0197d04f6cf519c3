"""A contained request: what it really used is kept, what its client is told is what it would have been."""

import asyncio
from collections.abc import Callable
from functools import cached_property, partial
from random import Random

import msgspec
from msgspec.json import encode

from gateway.canary.phrase import Words
from gateway.core.delta import Delta, Usage
from gateway.core.event import RequestEvent
from gateway.core.prompt import Prompt
from gateway.dataplane.call import Call, count_into
from gateway.dataplane.fit import Fitted
from gateway.dataplane.heard import Heard
from gateway.dataplane.more import More
from gateway.evidence.writer import Evidence
from gateway.fleet.models import ServedModel, region_of
from gateway.fleet.router import Choice
from gateway.policy.disguise import Pace, Retelling, beyond, told, told_finish
from gateway.quota.note import cost_of

LATER_S = 0.001
"""A moment: whoever is woken by what was just sent may be about to run on this very core."""

HELD, HELD_A_BYTE, HELD_A_BIAS = 1000, 4, 128
"""Bytes of memory that a prompt takes at most: at all, for a byte of its body, for an entry of its `logit_bias`."""


class Disguise:
    """See the module. `shadow`: who serves in the model's place. `words`: of the canary. `pace`: before which nothing
    is told. It is made while its request waits, so whatever is not needed by then is made later, when it is."""

    _draft: RequestEvent | None = None
    _timer: asyncio.TimerHandle | None = None

    def __init__(
        self, call: Call, fitted: Fitted, *, shadow: str | None, words: Words | None, pace: Pace | None
    ) -> None:
        self.call, self.work, self.shadow, self.words, self.pace = call, fitted.work, shadow, words, pace
        self._touched, self._added, self._apart = fitted.touched, fitted.added, fitted.apart
        self._prompts = 2 if fitted.cut else 1  # a copy is kept of what is left
        self._steps: list[Callable[[], object]] = []

    @cached_property
    def real(self) -> Usage:
        """What was really used."""
        return Usage()

    @cached_property
    def retells(self) -> bool:
        """Whether another model's tokens are to be counted as the nominal one's."""
        return self.work.model.counter is not self._nominal.counter

    @cached_property
    def _nominal(self) -> ServedModel:
        assert isinstance(self.call.model, ServedModel)
        return self.call.model

    @cached_property
    def _every_frame(self) -> bool:
        """Whether each frame may tell the counts, the first one, too."""
        return self.call.endpoint == "generate" and self.call.prompt is not None and self.call.prompt.stream

    @cached_property
    def _real_prompts(self) -> dict[int, int]:
        return {}

    @cached_property
    def _heard(self) -> Heard:
        return Heard(self.words)

    @cached_property
    def _more(self) -> More:
        return More(self._nominal.counter, self.call.texts, self.work.texts)

    @cached_property
    def _choices(self) -> "list[DisguisedChoice]":
        return [DisguisedChoice(self) for _ in range(self.call.choices)]

    def asked(self, prepare: Callable[[], None]) -> None:
        """The model is being asked: while it reads, `prepare` is called and what is known already is put together."""
        self._steps.append(prepare)
        self._later(self._prepare)

    def _later(self, step: Callable[[], object]) -> None:
        """What nobody waits for."""
        self._steps.append(step)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LATER_S, self._run)

    def _run(self) -> None:
        self._timer, steps, self._steps = None, self._steps, []
        for step in steps:
            step()

    def _prepare(self) -> None:
        self._draft = self._drafted()
        if self._every_frame:
            self._more.look()
        _ = self.real, self._real_prompts, self._heard, self._choices, self.retells  # there for the first token
        self._rehearse()

    def _rehearse(self) -> None:
        """Do once, to no end, what the first token will take: what a processor has not done for a while takes it twice
        as long, and somebody waits for it then."""
        nothing = Delta("", prompt_tokens=1)
        count_into(Usage(), {}, nothing, 1, 1)
        self._may_wait(nothing)
        self._tell_prompt(nothing, 0)

    def over(self, choices: list[Choice]) -> "list[DisguisedChoice]":
        """Choices that tell what the client is to be told."""
        disguised = self._choices
        for at, choice in enumerate(choices):
            disguised[at].choice = choice
        return disguised

    def hear(self, delta: Delta) -> None:
        """Keep what the delta really used, and what it says."""
        count_into(self.real, self._real_prompts, delta, self.call.choices, len(self.work.texts))
        self._heard.fresh.append((delta.choice, delta.text))

    def catch_up(self) -> None:
        """Look at what has been heard: when it has been told, and the model is at its next word, so that nobody waits
        for that."""
        if not self._heard.fresh:
            return
        first = self._heard.catch_up()
        if first and not (self._apart or self.call.settled):
            self._later(self._more.look)

    async def tell(self, delta: Delta) -> None:
        """Put what the client is told in the place of what was used."""
        if delta.finish_reason is not None:
            lowered = self.work.max_tokens[self._text_of(delta)] < self.call.measured.max_tokens and not self.retells
            delta.finish_reason = told_finish(delta.finish_reason, lowered=lowered)
        if not delta.prompt_tokens:
            return
        if self.retells:  # of another tokenizer's count only the share can be told
            untouched, touched = (counts[self._text_of(delta)] for counts in await self._more.counts())
            delta.cached_tokens = delta.cached_tokens * touched // delta.prompt_tokens
            delta.prompt_tokens = touched + self._nominal.entry.special_tokens
            self._tell_prompt(delta, touched - untouched)
        elif self._added is not None and (self._apart or self._may_wait(delta)):
            self._tell_prompt(delta, self._added)
        else:
            self._tell_prompt(delta, await self._more.of(self._text_of(delta)))

    def _text_of(self, delta: Delta) -> int:
        return delta.choice * len(self.work.texts) // self.call.choices

    def _may_wait(self, delta: Delta) -> bool:
        """The first token goes out at once, with a count that is near enough; who sees it sees the exact one later."""
        return delta.finish_reason is None and not self._every_frame and self.real.completion_tokens <= 1

    def _tell_prompt(self, delta: Delta, more: int) -> None:
        """The prompt less so many tokens. What the backend adds to every prompt stays in it."""
        shown = max(delta.prompt_tokens - more, 0)
        added = max(more, 0) if self._added is None else self._added
        block = self._nominal.entry.cache_block_tokens
        delta.cached_tokens = told(delta.prompt_tokens, delta.cached_tokens, shown, added=added, cache_block=block)
        delta.prompt_tokens = shown

    def retelling(self) -> Retelling:
        """Of one choice."""
        return Retelling(self._nominal.counter.count_now, self.call.measured.max_tokens)

    async def read_by_none(self) -> None:
        """The client left before the first token: the model reads the touched prompt all the same."""
        if not self.real.prompt_tokens:
            self.real.prompt_tokens = sum(await self.work.model.count_each(self.work.texts, asyncio.to_thread))

    def event(self) -> RequestEvent:
        """The event of what was told, with what operators know beside it."""
        self.catch_up()
        draft, call = self._draft, self.call
        if draft is None or not self._holds(draft):
            draft = self._drafted()
        price, so_far = self.work.model.price, call.so_far()
        more = beyond(self.real, call.usage)
        kv_cost = call.kv_cost_of(price, self.real) if price.kv else 0
        return msgspec.structs.replace(
            draft,
            canary_said=self._heard.said,
            beyond_prompt_tokens=more.prompt_tokens,
            beyond_cached_tokens=more.cached_tokens,
            beyond_completion_tokens=more.completion_tokens,
            beyond_cost=max(cost_of(price.weights, self.real) + kv_cost - so_far["cost"], 0),
            **so_far,
        )

    def _drafted(self) -> RequestEvent:
        """What of the event is known when a request has been sent."""
        region = region_of(self.work.model, self.call.upstream)
        told_event = self.call.told_event()
        return msgspec.structs.replace(told_event, contained=True, shadow=self.shadow, region=region)

    def _holds(self, draft: RequestEvent) -> bool:
        """Nothing was decided since, nor has any choice gone elsewhere."""
        call = self.call
        return draft.record is call.record and (draft.upstream, draft.attempts) == (call.upstream, call.attempts)

    def evidence(self) -> tuple[int, Callable[[], Evidence]]:
        """About how many bytes what is kept for operators holds until it is made, and what makes it."""
        self.catch_up()
        call = self.call
        assert call.caller is not None and call.prompt is not None
        whose = call.exchange.request_id, call.caller.organisation, call.caller.principal, call.exchange.arrived_ms
        size = HELD + self._prompts * HELD_A_BYTE * call.exchange.body_bytes + self._heard.held
        size += HELD_A_BIAS * len(call.prompt.sampling.logit_bias or ())
        return size, partial(_evidence, whose, call.prompt, self._touched, self._heard, call.choices)

    def close(self) -> None:
        """The request is over."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._steps = None, []
        self._more.close()


def _evidence(
    whose: tuple[str, str, str, int], asked: Prompt, touched: Callable[[], Prompt], heard: Heard, choices: int
) -> Evidence:
    sent = touched()
    return Evidence(*whose, encode(asked), encode(sent), tuple(map(heard.answer, range(choices))))


class DisguisedChoice:
    """One choice of a contained request; reads as the ordinary one would have."""

    __slots__ = ("_disguise", "_due_ms", "_ended", "_ready", "_retelling", "_times", "choice")

    choice: Choice
    """Once there is one."""

    def __init__(self, disguise: Disguise) -> None:
        self._disguise = disguise
        self._retelling = disguise.retelling() if disguise.retells else None
        self._ready: list[Delta] = []  # read, and not told yet, where there is a pace
        self._ended = False  # at a cap that the model knows nothing of
        self._due_ms = 0.0
        self._times: Random | None = None
        if disguise.pace is not None:
            self._due_ms = disguise.pace.first_ms
            self._times = Random(disguise.call.exchange.request_id)  # noqa: S311 - as in a crowd, no secret

    @property
    def finished(self) -> bool:
        """As Choice's."""
        return not self._ready and (self._ended or self.choice.finished)

    async def read(self) -> list[Delta]:
        """As Choice's. Where there is a pace, one delta at a time, each when it is due."""
        disguise = self._disguise
        disguise.catch_up()
        pace = disguise.pace
        if pace is None:
            return [] if self._ended else await self._told(await self.choice.read())
        if not self._ready and not self._ended:
            self._ready.extend(await self._told(await self.choice.read()))
        if not self._ready:
            return []
        await self._wait(pace, self._ready[0].completion_tokens)
        return [self._ready.pop(0)]

    async def _told(self, deltas: list[Delta]) -> list[Delta]:
        """As they are to be told."""
        disguise = self._disguise
        for delta in deltas:
            disguise.hear(delta)
        told: list[Delta] = []
        for delta in deltas:
            await disguise.tell(delta)
            if self._retelling is not None:
                delta = self._retelling.feed(delta)
            told.append(delta)
            if delta.finish_reason is not None:
                self._ended = True
                break
        return told

    async def _wait(self, pace: Pace, tokens: int) -> None:
        """Until a delta of so many tokens may be told. Gaps are as uneven as others' are."""
        now_ms = self._disguise.call.exchange.elapsed_ms()
        await asyncio.sleep(max(self._due_ms - now_ms, 0) / 1000)
        assert self._times is not None
        gaps = sum(2 * self._times.random() for _ in range(max(tokens, 1)))
        self._due_ms = max(self._due_ms, now_ms) + gaps * pace.gap_ms

    def close(self) -> None:
        """As Choice's."""
        self.choice.close()
