"""The one tree of errors that a client can meet.

    ApiError
    ├── InvalidRequest          400  invalid_request_error
    │   ├── UnsupportedParameter     code unsupported_parameter, names the parameter
    │   ├── ContextLengthExceeded    code context_length_exceeded
    │   └── TooLargeForPlan          code request_exceeds_limit: could never fit the plan
    ├── Unauthenticated         401  code invalid_api_key
    ├── Forbidden               403  code permission_denied
    │   ├── InsufficientScope        code insufficient_scope: not for this endpoint
    │   └── AddressNotAllowed        code address_not_allowed: not from there
    ├── ModelNotFound           404  code model_not_found
    ├── NotFound                404  code not_found: the admin API knows no such thing
    ├── RouteNotFound           404  code unknown_url
    ├── MethodNotAllowed        405
    ├── RequestTimeout          408  the client did not send its body in time
    ├── BodyTooLarge            413
    ├── HeadTooLarge            431  code request_head_too_large
    ├── RateLimited             429  code rate_limit_exceeded
    ├── InsufficientQuota       429  code insufficient_quota: a budget is spent; retrying does not help
    ├── Refused                      by a policy, with the status and code that it says
    ├── InternalError           500
    ├── UpstreamFailed          502  code upstream_error
    ├── Unavailable             503  a part that this request needs is gone
    └── UpstreamTimeout         504  code upstream_timeout

An error keeps what the client may read (`message`, `code`, `param`) apart from what only the log may hold (`detail`).
Prompts and secrets belong in neither.
"""


class ApiError(Exception):
    """Base: one HTTP status, one OpenAI error `type`, a stable `code` (or none), the public sentence."""

    status = 500
    type = "api_error"
    code: str | None = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        detail: str | None = None,
        retry_after_ms: int | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.detail = detail
        self.retry_after_ms = retry_after_ms
        self.headers = headers

    def body(self) -> dict[str, object]:
        """OpenAI's error object; all four keys are always there."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class InvalidRequest(ApiError):
    status = 400
    type = "invalid_request_error"


class UnsupportedParameter(InvalidRequest):
    code = "unsupported_parameter"


class ContextLengthExceeded(InvalidRequest):
    code = "context_length_exceeded"


class TooLargeForPlan(InvalidRequest):
    code = "request_exceeds_limit"


class Unauthenticated(ApiError):
    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class Forbidden(ApiError):
    status = 403
    type = "invalid_request_error"
    code = "permission_denied"


class InsufficientScope(Forbidden):
    code = "insufficient_scope"


class AddressNotAllowed(Forbidden):
    code = "address_not_allowed"


class ModelNotFound(InvalidRequest):
    status = 404
    code = "model_not_found"


class NotFound(InvalidRequest):
    status = 404
    code = "not_found"


class RouteNotFound(InvalidRequest):
    status = 404
    code = "unknown_url"


class MethodNotAllowed(InvalidRequest):
    status = 405
    code = "method_not_allowed"


class RequestTimeout(InvalidRequest):
    status = 408
    code = "request_timeout"


class BodyTooLarge(InvalidRequest):
    status = 413
    code = "request_too_large"


class HeadTooLarge(InvalidRequest):
    status = 431
    code = "request_head_too_large"


class RateLimited(ApiError):
    status = 429
    type = "requests"
    code = "rate_limit_exceeded"


class InsufficientQuota(ApiError):
    status = 429
    type = "insufficient_quota"
    code = "insufficient_quota"


class Refused(ApiError):
    """Status and code are the policy's; `of` puts them there."""

    status = 403
    type = "invalid_request_error"
    code = "permission_denied"

    def of(self, status: int, code: str) -> "Refused":
        """The same with this status and code."""
        self.status, self.code = status, code
        self.type = "requests" if status == 429 else "server_error" if status >= 500 else "invalid_request_error"
        return self


class InternalError(ApiError):
    status = 500
    type = "server_error"
    code = "internal_error"


class UpstreamFailed(ApiError):
    status = 502
    type = "server_error"
    code = "upstream_error"


class Unavailable(ApiError):
    status = 503
    type = "server_error"
    code = "service_unavailable"


class UpstreamTimeout(ApiError):
    status = 504
    type = "server_error"
    code = "upstream_timeout"
