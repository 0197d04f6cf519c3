"""THE request path: authenticate, parse, measure, admit, judge, shape, route, stream, settle. One named call a line."""

import asyncio
from functools import partial

import msgspec

from gateway.core.errors import ApiError, InternalError, RequestTimeout, Unavailable, UpstreamTimeout
from gateway.core.event import Outcome
from gateway.core.reservation import Denial, Reservation
from gateway.dataplane.authenticate import authenticate, authorise, models_for
from gateway.dataplane.call import Call, aside, charge_the_unanswered, digest_end_user
from gateway.dataplane.exchange import Exchange
from gateway.dataplane.judge import foresee, forget, judge, note
from gateway.dataplane.kinds import EndpointKind
from gateway.dataplane.limits import Grant, denied, limits_unknown
from gateway.dataplane.measure import counting_may_help
from gateway.dataplane.record import record
from gateway.dataplane.services import Services
from gateway.dataplane.standing import headers_of
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
        record(services, call)


async def _answer(services: Services, kind: EndpointKind, call: Call) -> None:
    known = await authenticate(services, call.exchange)
    call.caller = known.caller
    authorise(call.caller, kind.scope)
    body = await call.exchange.body(services.bounds.body_bytes)
    call.model, call.prompt = kind.parse(body, models_for(call.caller, services.models))
    call.texts = call.model.render(call.prompt)
    call.choices = call.prompt.n * len(call.texts) or 1
    grant = services.plans.of(call.caller, call.model)
    call.limits = grant.limits
    await _measure(services, kind, call, grant)
    await _admit(services, kind, call, grant)
    await _check_epoch(services, kind, call, known)
    judge(services, call)
    call.begun = True
    await kind.answer(services, call, lambda: _complete(services, call))


async def _measure(services: Services, kind: EndpointKind, call: Call, grant: Grant, **exactly: bool) -> None:
    asked = call.prompt, call.texts, call.model, grant.default_max_tokens, call.limits
    call.measured = await kind.measure(*asked, aside(services.counting, call), **exactly)


async def _admit(services: Services, kind: EndpointKind, call: Call, grant: Grant) -> None:
    """Reserve in Redis. A denial becomes the answer 429, an absent Redis 503 (mode `closed`)."""
    assert call.caller is not None and call.prompt is not None and call.model is not None
    call.end_user = digest_end_user(services.pepper, call.caller, call.prompt.end_user)
    admitted = await _reserve(services, call)
    if isinstance(admitted, Denial) and counting_may_help(call.measured, call.limits, admitted):
        forget(call)
        await _measure(services, kind, call, grant, exactly=True)
        admitted = await _reserve(services, call)
    if isinstance(admitted, Denial):
        services.tally.denial(admitted.limit.name, call.caller.plan)
        raise denied(admitted, call.exchange.arrived_ms)
    call.reservation = admitted


async def _reserve(services: Services, call: Call) -> Reservation | Denial:
    assert call.caller is not None and call.model is not None
    asked = call.caller, call.limits, call.measured.ceiling, call.event(), call.usage, call.model.price.weights
    try:
        return await services.quota.admit(*asked, meanwhile=partial(foresee, services, call))
    except (RedisUnavailable, RedisRefused) as problem:
        raise limits_unknown(problem) from problem


async def _check_epoch(services: Services, kind: EndpointKind, call: Call, known: Known) -> None:
    """A changed epoch means that a key of the organisation has changed: look this one up anew before it goes on. It may
    be less than it was; limits that have changed bind from the next request on."""
    assert call.reservation is not None and call.prompt is not None and call.caller is not None
    epoch = call.reservation.epoch
    if epoch is None or epoch == known.epoch:
        return
    forget(call)
    known = await authenticate(services, call.exchange, epoch)
    authorise(known.caller, kind.scope, call.prompt.model)
    call.caller = msgspec.structs.replace(known.caller, plan=call.caller.plan)  # that it was admitted under
    foresee(services, call)


async def _stopped(services: Services, call: Call) -> None:
    """The client has left, or time is up."""
    why = call.exchange.stopped
    if why == "gone":
        try:
            if call.attempts:
                await charge_the_unanswered(call, aside(services.counting, call))
        finally:
            _settle(services, call, "cancelled")
    elif why == "body":
        late = "The body did not arrive in time. Send it again."
        await _fail(services, call, RequestTimeout(late, headers=((b"connection", b"close"),)))
    else:
        await _fail(services, call, UpstreamTimeout("The answer took too long.", detail="request timeout"))


async def _fail(services: Services, call: Call, error: ApiError) -> None:
    call.error = error
    timeout = isinstance(error, UpstreamTimeout)
    _settle(services, call, "refused" if not call.begun else "timeout" if timeout else "failed")
    await asyncio.sleep(0)  # as in _complete
    await call.exchange.fail(error, await headers_of(services, call, error))


async def _complete(services: Services, call: Call) -> None:
    """Before the last bytes: were they sent first, a gateway killed in between would leave an answer told and not
    charged. What is posted to Redis is written at the end of the loop's turn, for all requests of that turn at once."""
    _settle(services, call, "completed")
    await asyncio.sleep(0)


def _settle(services: Services, call: Call, outcome: Outcome) -> None:
    """Charge what was used and record it, once; a second ending changes nothing. Without a reservation nothing was
    admitted and nothing is charged."""
    if call.settled:
        return
    if call.reservation is not None:
        note(services, call)
    call.settled = True
    call.outcome = outcome if call.reservation or outcome == "cancelled" else "refused"
    if call.reservation is not None:
        services.quota.settle(call.reservation, call.limits, call.event())
