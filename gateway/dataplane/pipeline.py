"""THE request path: authenticate, parse, measure, admit, route, stream, settle. One named call a line."""

import asyncio

from gateway.core.errors import ApiError, InternalError, RequestTimeout, Unavailable, UpstreamTimeout
from gateway.core.event import Outcome
from gateway.core.reservation import Denial, Reservation
from gateway.dataplane.call import Call, digest_end_user
from gateway.dataplane.endpoints import EndpointKind
from gateway.dataplane.exchange import Exchange
from gateway.dataplane.generation import open_choices
from gateway.dataplane.limits import Grant, denied, limit_headers, limits_unknown
from gateway.dataplane.measure import counting_may_help, measure
from gateway.dataplane.relay import relay
from gateway.dataplane.services import Services
from gateway.fleet.router import Asked
from gateway.identity.bearer import bearer_token
from gateway.identity.directory import Known
from gateway.quota.connection import RedisRefused, RedisUnavailable


async def serve(services: Services, kind: EndpointKind, exchange: Exchange) -> None:
    """One request from its first byte to its last, and its record. Every way out leads through `_fail` or `_settle`."""
    call = Call(exchange, kind.name)
    services.tally.in_flight += 1
    try:
        await _answer(services, kind, call)
    except ApiError as error:
        await _fail(services, call, error)
    except asyncio.CancelledError:
        if not exchange.was_stopped():  # the server is stopping, and the time for running answers is over
            await _fail(services, call, Unavailable("The gateway is stopping. Try again.", retry_after_ms=1000))
            raise
        await _stopped(services, call)
    except Exception:
        await _fail(services, call, InternalError("Something went wrong inside the gateway.", detail="exception"))
        raise
    finally:
        exchange.close()
        services.tally.in_flight -= 1
        _record(services, call)


async def _answer(services: Services, kind: EndpointKind, call: Call) -> None:
    token = bearer_token(call.exchange.header(b"authorization"))
    known = services.directory.known(token) or await services.directory.resolve(token)
    call.caller = known.caller
    body = await call.exchange.body(services.bounds.body_bytes)
    call.model, call.prompt = kind.parse(body, services.models)
    call.texts = call.model.render(call.prompt)
    call.choices = call.prompt.n * len(call.texts)
    grant = services.plans.of(call.caller, call.model)
    call.limits = grant.limits
    call.measured = await measure(call.prompt, call.texts, call.model, grant.default_max_tokens, call.limits)
    await _admit(services, call, grant)
    await _check_epoch(services, call, token, known)
    asked = Asked(call.prompt.sampling, call.measured.max_tokens, call.exchange.header(b"traceparent"))
    call.routes, call.routed_ms = [[] for _ in range(call.choices)], call.exchange.elapsed_ms()
    choices = await open_choices(services.router, call.model, call.texts, call.prompt.n, asked, call.routes)
    try:
        await relay(kind, call, choices, lambda: _settle(services, call, "completed"))
    finally:
        for choice in choices:
            choice.close()


async def _admit(services: Services, call: Call, grant: Grant) -> None:
    """Reserve in Redis. A denial becomes the answer 429, an absent Redis 503 (mode `closed`)."""
    assert call.caller is not None and call.prompt is not None and call.model is not None
    call.end_user = digest_end_user(services.pepper, call.caller, call.prompt.end_user)
    admitted = await _reserve(services, call)
    if isinstance(admitted, Denial) and counting_may_help(call.measured, call.limits, admitted):
        call.measured = await measure(
            call.prompt, call.texts, call.model, grant.default_max_tokens, call.limits, exactly=True
        )
        admitted = await _reserve(services, call)
    if isinstance(admitted, Denial):
        services.tally.denial(admitted.limit.name, call.caller.plan)
        raise denied(admitted, call.exchange.arrived_ms)
    call.reservation = admitted


async def _reserve(services: Services, call: Call) -> Reservation | Denial:
    assert call.caller is not None and call.model is not None
    try:
        return await services.quota.admit(
            call.caller, call.limits, call.measured.ceiling, call.event(), call.usage, call.model.price.weights
        )
    except (RedisUnavailable, RedisRefused) as problem:
        raise limits_unknown(problem) from problem


async def _check_epoch(services: Services, call: Call, token: str, known: Known) -> None:
    """A changed epoch means that a key of the organisation has changed: look this one up anew before it goes on."""
    assert call.reservation is not None
    epoch = call.reservation.epoch
    if epoch is None or epoch == known.epoch:
        return
    try:
        await services.directory.refresh(token, epoch)
    except ApiError as error:
        call.error = error  # its status is in the event that settles
        _settle(services, call, "refused")
        raise


async def _stopped(services: Services, call: Call) -> None:
    """The client has left, or time is up."""
    why = call.exchange.stopped
    if why == "gone":
        _settle(services, call, "cancelled")
    elif why == "body":
        await _fail(services, call, RequestTimeout("The body did not arrive in time. Send it again.",
                                                     headers=((b"connection", b"close"),)))  # fmt: skip
    else:
        await _fail(services, call, UpstreamTimeout("The answer took too long.", detail="request timeout"))


async def _fail(services: Services, call: Call, error: ApiError) -> None:
    call.error = error
    _settle(services, call, "timeout" if isinstance(error, UpstreamTimeout) else "failed")
    await call.exchange.fail(error, limit_headers(call.reservation.states) if call.reservation else ())


def _settle(services: Services, call: Call, outcome: Outcome) -> None:
    """Charge what was used and record it, once; a second ending changes nothing. Without a reservation nothing was
    admitted and nothing is charged."""
    if call.settled:
        return
    call.settled = True
    call.outcome = outcome if call.reservation or outcome == "cancelled" else "refused"
    if call.reservation is not None:
        services.quota.settle(call.reservation, call.limits, call.event())


def _record(services: Services, call: Call) -> None:
    """The log line and the metrics."""
    tally, name = services.tally, call.model.entry.name if call.model else ""
    tally.request(call.endpoint, name, call.status(), call.exchange.elapsed_ms() / 1000)
    if call.error is not None:
        tally.refusal(call.endpoint, call.error.code or call.error.type)
    if call.reservation is not None:
        ttft = None if call.first_token_ms is None else call.first_token_ms / 1000
        tally.served(name, call.usage.prompt_tokens, call.usage.completion_tokens, ttft)
        if call.attempts > 1:
            tally.retry(name)
        if call.usage.prompt_tokens + call.usage.completion_tokens > call.tokens:
            tally.overrun(name)
    services.access_log.add(call.line())
