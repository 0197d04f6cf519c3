"""Who may change things: whoever holds the admin token. It stands before every route of the API, those that do not
exist included, so that no route can be forgotten."""

import hmac

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.admin.answers import refusal
from gateway.core.errors import Unauthenticated
from gateway.identity.bearer import bearer_token
from gateway.telemetry import metrics


class Guard:
    """`app` behind the token. Nothing but the header `authorization` is looked at: no path, no Host."""

    def __init__(self, app: ASGIApp, token: bytes) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or not self._lets_in(scope):
            metrics.admin_refusals.inc()
            error = Unauthenticated("The admin API takes the admin token: 'Authorization: Bearer TOKEN'.")
            await refusal(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _lets_in(self, scope: Scope) -> bool:
        header = next((value for name, value in scope["headers"] if name == b"authorization"), None)
        try:
            shown = bearer_token(header).encode("latin-1")
        except Unauthenticated:
            return False
        return hmac.compare_digest(shown, self._token)
