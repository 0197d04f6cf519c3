"""From the backend's deltas to the client's bytes, as they come."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from gateway.core.errors import Unavailable, UpstreamFailed, UpstreamTimeout
from gateway.dataplane.call import Call
from gateway.dataplane.fit import Work
from gateway.dataplane.generation import Several, Source, open_choices
from gateway.dataplane.judge import count_contained, note
from gateway.dataplane.limits import limit_headers
from gateway.dataplane.services import Services
from gateway.dataplane.shape import shape
from gateway.wire import answers

MakeWriter = Callable[[str, str, int, bool], answers.Writer]
"""(request id, model name, seconds since the epoch, include usage) -> a writer."""
Settle = Callable[[], Awaitable[None]]


def relayed(make_writer: MakeWriter) -> Callable[[Services, Call, Settle], Awaitable[None]]:
    """How an endpoint whose answers are written so answers from generations."""

    async def answer(services: Services, call: Call, settle: Settle) -> None:
        choices = await _opened(services, call)
        try:
            await relay(make_writer, call, choices, settle)
        finally:
            for choice in choices:
                choice.close()

    return answer


async def _opened(services: Services, call: Call) -> Sequence[Source]:
    """The choices of a call, each with its first deltas there."""
    work = await shape(services, call)
    if call.disguise is None or call.disguise.shadow is None:
        return await _open(services, call, work)
    try:
        async with asyncio.timeout(services.resting.patience_s):
            return await _open(services, call, work)
    except (Unavailable, UpstreamFailed, UpstreamTimeout, TimeoutError):
        services.tally.misfit("shadow")  # nobody must see from an error, or from waiting, that there is a decoy
        services.resting.rest(call.disguise.shadow)
        call.disguise.close()
        return await _open(services, call, await shape(services, call, shadow=False))


async def _open(services: Services, call: Call, work: Work) -> Sequence[Source]:
    assert call.prompt is not None
    call.routes, call.routed_ms = [[] for _ in range(call.choices)], call.exchange.elapsed_ms()
    trace, sampling = call.exchange.header(b"traceparent"), call.prompt.sampling
    if call.disguise is not None:
        call.disguise.asked(partial(_meanwhile, services, call))
    choices = await open_choices(services.router, work, call.prompt.n, sampling, trace, call.routes)
    return choices if call.disguise is None else call.disguise.over(choices)


def _meanwhile(services: Services, call: Call) -> None:
    """What nobody waits for, while the model reads."""
    note(services, call)
    count_contained(services, call)


async def relay(make_writer: MakeWriter, call: Call, choices: Sequence[Source], settle: Settle) -> None:
    """Answer from running choices. `settle` is called before the last bytes are handed to the client."""
    assert call.prompt is not None and call.reservation is not None
    prompt, created = call.prompt, call.exchange.arrived_ms // 1000
    writer = make_writer(call.exchange.request_id, prompt.model, created, prompt.include_usage)
    source: Source = choices[0] if len(choices) == 1 else Several(choices)
    answer = _stream if prompt.stream else _whole
    try:
        await answer(call, source, writer, settle)
    finally:
        if isinstance(source, Several):
            source.close()


async def _stream(call: Call, source: Source, writer: answers.Writer, settle: Settle) -> None:
    assert call.prompt is not None and call.reservation is not None
    exchange = call.exchange
    frames = b""
    while deltas := await source.read():
        for delta in deltas:
            call.count(delta)
        if call.first_token_ms is None:
            call.first_token_ms = exchange.elapsed_ms()
            await exchange.begin_stream(limit_headers(call.reservation.states))
        frames = writer.delta(deltas[0]) if len(deltas) == 1 else b"".join([writer.delta(delta) for delta in deltas])
        if source.finished:
            break
        if frames:
            await exchange.write(frames)
            frames = b""
    await settle()
    usage = writer.usage(call.usage) if call.prompt.include_usage else b""
    await exchange.end_stream(b"%b%b%b" % (frames, usage, exchange.dialect.done))


async def _whole(call: Call, source: Source, writer: answers.Writer, settle: Settle) -> None:
    assert call.reservation is not None
    exchange = call.exchange
    gathered = [answers.Choice() for _ in range(call.choices)]
    while deltas := await source.read():
        if call.first_token_ms is None:
            call.first_token_ms = exchange.elapsed_ms()
        for delta in deltas:
            call.count(delta)
            gathered[delta.choice].add(delta)
        if source.finished:
            break
    await settle()
    await exchange.answer(writer.whole(gathered, call.usage), limit_headers(call.reservation.states))
