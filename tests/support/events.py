"""Events for tests."""

from typing import Any

from gateway.core.event import RequestEvent


def make_event(number: int, **fields: Any) -> RequestEvent:
    """The event of request `number`, with 10 prompt and 5 completion tokens unless told otherwise."""
    values: dict[str, Any] = {
        "request": f"req_{number:032x}",
        "organisation": "org_1",
        "project": "proj_1",
        "principal": "prin_1",
        "key": "key_1",
        "plan": "free",
        "endpoint": "chat",
        "model": "demo",
        "at_ms": 1_700_000_000_000 + number,
        "outcome": "completed",
        "status": 200,
        "prompt_tokens": 10,
        "completion_tokens": 5,
    }
    return RequestEvent(**{**values, **fields})
