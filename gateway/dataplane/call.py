"""What is known of one request as it goes its way, and the record it leaves: event, log line, metrics."""

import hashlib
import hmac
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from gateway.core.caller import Caller
from gateway.core.decision import Decision
from gateway.core.delta import Delta, Usage
from gateway.core.errors import ApiError, RateLimited
from gateway.core.event import Outcome, RequestEvent
from gateway.core.facts import Roll
from gateway.core.prompt import Prompt
from gateway.core.record import Record
from gateway.core.reservation import Reservation
from gateway.dataplane.counting import Counting
from gateway.dataplane.exchange import Exchange
from gateway.dataplane.measure import Measured
from gateway.fleet.models import Served, ServedModel, region_of
from gateway.fleet.tokens import Aside
from gateway.limits.plans import Limit
from gateway.limits.weights import Price
from gateway.quota.note import cost_of
from gateway.telemetry.log import AccessLine

if TYPE_CHECKING:
    from gateway.dataplane.disguise import Disguise
    from gateway.policy.decide import Case

CLIENT_LEFT = 499
"""The status recorded for a client that had left before there was one to tell it (nginx's convention)."""


UNDECIDED = Decision(ruleset="", reason="")


class Call:
    """One request. Filled in by the pipeline, step by step."""

    __slots__ = (
        "begun",
        "caller",
        "case",
        "choices",
        "counted",
        "decision",
        "disguise",
        "end_user",
        "endpoint",
        "error",
        "exchange",
        "finish_reason",
        "first_token_ms",
        "foreseen",
        "limits",
        "measured",
        "model",
        "outcome",
        "prompt",
        "prompt_tokens",
        "record",
        "reservation",
        "routed_ms",
        "routes",
        "settled",
        "texts",
        "usage",
    )

    def __init__(self, exchange: Exchange, endpoint: str) -> None:
        self.exchange = exchange
        self.endpoint = endpoint
        self.caller: Caller | None = None
        self.prompt: Prompt | None = None
        self.model: Served | None = None
        self.limits: tuple[Limit, ...] = ()
        self.texts: tuple[str, ...] = ()
        self.measured = Measured(0, Usage(), exact=False)
        self.choices = 1
        self.end_user: str | None = None
        self.reservation: Reservation | None = None
        self.decision: Decision | None = None
        self.record: Record | None = None
        self.case: Case | None = None  # what rules that only note something have not been asked about yet
        self.foreseen: Disguise | None = None  # as the decision says, made before the call was admitted
        self.disguise: Disguise | None = None
        self.prompt_tokens: dict[int, int] = {}
        self.counted = False  # among those that are contained
        self.begun = False  # an answer is being made: an error is then a failure, and no refusal
        self.settled = False
        self.usage = Usage()
        self.finish_reason: str | None = None
        self.first_token_ms: int | None = None
        self.routed_ms: int | None = None
        self.routes: list[list[str]] = []  # for each choice, the endpoints that it was sent to, in order
        self.outcome: Outcome = "refused"
        self.error: ApiError | None = None

    @property
    def roll(self) -> Roll:
        """The dice that were thrown for it, once it is decided on."""
        decided = self.case or self.record
        assert decided is not None
        return decided.roll

    @property
    def upstream(self) -> str | None:
        """The endpoint that the first choice went to last."""
        return self.routes[0][-1] if self.routes and self.routes[0] else None

    @property
    def attempts(self) -> int:
        """The most endpoints that a choice was sent to."""
        return len(self.routes[0]) if len(self.routes) == 1 else max(map(len, self.routes), default=0)

    def count(self, delta: Delta) -> None:
        """Add what a delta used, as the client is told it."""
        count_into(self.usage, self.prompt_tokens, delta, self.choices, len(self.texts))
        if delta.finish_reason is not None and delta.choice == 0:
            self.finish_reason = delta.finish_reason

    @property
    def tokens(self) -> int:
        """What is reserved: the most that it may use."""
        return self.measured.ceiling.prompt_tokens + self.measured.ceiling.completion_tokens

    def kv_cost(self) -> int:
        """Thousandths of a cost unit for the KV cache held until now: each choice's prompt, and its output."""
        return 0 if self.model is None else self.kv_cost_of(self.model.price, self.usage)

    def kv_cost_of(self, price: Price, usage: Usage) -> int:
        """The same for other usage at another price."""
        if self.routed_ms is None:
            return 0
        prompts = usage.prompt_tokens * self.choices // max(len(self.texts), 1)
        return price.kv_cost(prompts, usage.completion_tokens, self.exchange.elapsed_ms() - self.routed_ms)

    def event(self) -> RequestEvent:
        """The event as things stand. Until the request settles its outcome reads `reclaimed`: what would be recorded
        should this process die on the way."""
        return self.told_event() if self.disguise is None else self.disguise.event()

    def told_event(self) -> RequestEvent:
        """The same, as if nobody were contained."""
        assert self.caller is not None and self.model is not None and self.prompt is not None
        caller, model, decision, upstream = self.caller, self.model, self.decision or UNDECIDED, self.upstream
        return RequestEvent(
            request=self.exchange.request_id,
            organisation=caller.organisation,
            project=caller.project,
            principal=caller.principal,
            key=caller.key,
            plan=caller.plan,
            endpoint=self.endpoint,
            model=model.entry.name,
            stream=self.prompt.stream,
            at_ms=self.exchange.arrived_ms,
            reserved_tokens=self.tokens,
            choices=self.choices,
            upstream=upstream,
            region=region_of(model, upstream),
            attempts=self.attempts,
            end_user=self.end_user,
            matched=decision.matched,
            logged=decision.logged,
            flags=decision.actions.flags,
            record=self.record,
            **self.so_far(),
        )

    def so_far(self) -> dict[str, Any]:
        """What of the event changes as an answer goes on."""
        assert self.model is not None
        price, usage = self.model.price, self.usage
        kv_cost = self.kv_cost() if price.kv else 0
        return {
            "outcome": self.outcome if self.settled else "reclaimed",
            "status": self.status() if self.settled else 0,
            "finish_reason": self.finish_reason,
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "cached_tokens": usage.cached_tokens,
            "cost": cost_of(price.weights, usage) + kv_cost,
            "kv_cost": kv_cost,
            "ttft_ms": self.first_token_ms,
            "duration_ms": self.exchange.elapsed_ms(),
        }

    def status(self) -> int:
        """The status told to the client, or about to be."""
        if self.exchange.status:
            return self.exchange.status
        if self.outcome == "cancelled":
            return CLIENT_LEFT
        return self.error.status if self.error is not None else 200

    def line(self) -> AccessLine:
        """The line of the access log."""
        caller, error = self.caller, self.error
        status = self.status()
        return AccessLine(
            event="request",
            timestamp_ms=self.exchange.arrived_ms,
            level="info" if status < 500 and self.outcome != "failed" else "warning",
            request_id=self.exchange.request_id,
            endpoint=self.endpoint,
            status=status,
            duration_ms=self.exchange.elapsed_ms(),
            outcome=self.outcome,
            code=error.code or error.type if error else None,
            model=self.model.entry.name if self.model else None,
            organisation=caller.organisation if caller else None,
            principal=caller.principal if caller else None,
            key=caller.key if caller else None,
            stream=bool(self.prompt and self.prompt.stream),
            prompt_tokens=self.usage.prompt_tokens,
            completion_tokens=self.usage.completion_tokens,
            ttft_ms=self.first_token_ms,
            upstream=self.upstream,
            attempts=self.attempts,
            finish_reason=self.finish_reason,
            contained=self.disguise is not None,
            detail=error.detail if error else None,
        )


def count_into(usage: Usage, prompts: dict[int, int], delta: Delta, choices: int, texts: int) -> None:
    """Add what a delta used. A prompt counts once, however many choices it has and however often it is told; of several
    choices the later ones find the first one's prompt cached, which spares the client nothing. `prompts`: tokens of
    each text, where there are several choices."""
    if choices == 1:
        usage.prompt_tokens = delta.prompt_tokens or usage.prompt_tokens
        usage.cached_tokens = delta.cached_tokens or usage.cached_tokens
    elif delta.prompt_tokens:
        text = delta.choice * texts // choices
        if prompts.get(text) != delta.prompt_tokens:
            prompts[text] = delta.prompt_tokens
            usage.prompt_tokens = sum(prompts.values())
    usage.completion_tokens += delta.completion_tokens


def aside(counting: Counting, call: Call) -> Aside:
    """What is long is counted when it is the principal's turn."""
    assert call.caller is not None
    return partial(counting.run, call.caller.principal)


async def charge_the_unanswered(call: Call, turn: Aside) -> None:
    """A client left before the first token: the prompt was sent, and the model reads it, so it is charged; otherwise a
    limit on tokens could be read past by leaving early. Long ones are counted when it is its `turn`; where too many
    wait for one, the bound is charged."""
    if not isinstance(call.model, ServedModel) or call.usage.prompt_tokens:
        return
    call.usage.prompt_tokens = call.measured.ceiling.prompt_tokens
    if not call.measured.exact:
        with suppress(RateLimited):
            call.usage.prompt_tokens = sum(await call.model.count_each(call.texts, turn))
    if call.disguise is not None:
        await call.disguise.read_by_none()


def digest_end_user(pepper: bytes, caller: Caller, end_user: str | None) -> str | None:
    """The client's `user` as a keyed digest of its own organisation: tells users apart, names none."""
    if end_user is None:
        return None
    text = f"{caller.organisation}\0{end_user}".encode(errors="replace")
    return hmac.new(pepper, text, hashlib.sha256).hexdigest()[:24]
