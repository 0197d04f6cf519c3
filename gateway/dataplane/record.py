"""What a finished request leaves beside its event: a log line and metrics."""

from gateway.dataplane.call import Call
from gateway.dataplane.judge import count_contained
from gateway.dataplane.services import Services


def record(services: Services, call: Call) -> None:
    """Add one to the log and to the metrics."""
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
    if call.disguise is not None:
        count_contained(services, call)
        services.evidence.keep(*call.disguise.evidence())
        call.disguise.close()
    services.access_log.add(call.line())
