"""Bodies in, answers and lines of the log out of the admin API."""

from typing import TypeVar

import msgspec
import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from gateway.core.errors import ApiError, BodyTooLarge, InvalidRequest, NotFound

MAX_BODY_BYTES = 64 << 10
Body = TypeVar("Body")
Result = TypeVar("Result")


def answer(value: object, status: int = 200) -> Response:
    """JSON that no cache keeps: it may hold a key."""
    return Response(msgspec.json.encode(value), status, {"cache-control": "no-store"}, media_type="application/json")


def refusal(error: ApiError) -> Response:
    """An error in the one shape."""
    response = answer(error.body(), error.status)
    if error.status == 401:
        response.headers["www-authenticate"] = "Bearer"
    if error.retry_after_ms is not None:
        response.headers["retry-after"] = str(-(-error.retry_after_ms // 1000))
    return response


async def body_of(request: Request, kind: type[Body], most: int = MAX_BODY_BYTES) -> Body:
    """The request's JSON as `kind`, of at most so many bytes. Raises InvalidRequest, BodyTooLarge."""
    data = b""
    try:
        async for chunk in request.stream():
            data += chunk
            if len(data) > most:
                raise BodyTooLarge(f"The body is larger than {most} bytes.")
        return msgspec.json.decode(data or b"{}", type=kind)
    except (msgspec.DecodeError, RecursionError, ClientDisconnect) as problem:
        raise InvalidRequest(f"The body cannot be used: {problem}.") from None


def found(result: Result | None, what: str) -> Result:
    """What was found. Raises NotFound."""
    if result is None:
        raise NotFound(f"There is no such {what}.")
    return result


def whole_number(request: Request, name: str, default: int, most: int) -> int:
    """A number from the query. Raises InvalidRequest."""
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most):
        raise InvalidRequest(f"It must be a number from 1 to {most}.", param=name)
    return int(text)


def log(request: Request, what: str, organisation: str, **more: object) -> None:
    """One change: `actor` is whoever holds the token, known by address alone."""
    address = request.client.host if request.client else None
    structlog.get_logger().info(what, actor="admin token", address=address, organisation=organisation, **more)
