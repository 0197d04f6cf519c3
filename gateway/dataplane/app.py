"""The data plane's ASGI app: the two hot paths first, everything else through Starlette's router."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.core.caller import Caller
from gateway.core.errors import ApiError, InternalError, MethodNotAllowed, RouteNotFound
from gateway.core.ids import request_id
from gateway.dataplane import pipeline
from gateway.dataplane.endpoints import CHAT, COMPLETIONS, EndpointKind, find_model
from gateway.dataplane.exchange import Exchange, error_headers
from gateway.dataplane.limits import limits_body, limits_unknown
from gateway.dataplane.services import Services
from gateway.fleet.models import ServedModel
from gateway.identity.bearer import bearer_token
from gateway.quota.connection import RedisRefused, RedisUnavailable

Lifespan = Callable[[], AbstractAsyncContextManager[Services]]
HOT = {"/v1/chat/completions": CHAT, "/v1/completions": COMPLETIONS}
PING_S = 1.0


class DataPlane:
    """The app. `lifespan` makes the services when the server starts and ends them when it stops."""

    def __init__(self, lifespan: Lifespan) -> None:
        self._lifespan = lifespan
        self._services: Services | None = None
        app = Starlette(
            routes=[
                Route("/v1/limits", self._show_limits),
                Route("/v1/models", self._list_models),
                Route("/v1/models/{model:path}", self._show_model),
                Route("/livez", _live),
                Route("/readyz", self._ready),
                *(Route(path, _unreachable, methods=["POST"]) for path in HOT),
            ],
            lifespan=self._run,
            exception_handlers={ApiError: _tell, HTTPException: _tell_http, Exception: _tell_fault},
        )
        app.router.redirect_slashes = False  # the redirect would be built from the Host header
        self._router: ASGIApp = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI. Paths are matched on `scope["path"]` alone; the Host header decides nothing."""
        if scope["type"] == "http" and scope["method"] == "POST" and self._services is not None:
            kind = HOT.get(scope["path"])
            if kind is not None:
                await self._generate(self._services, kind, scope, receive, send)
                return
        await self._router(scope, receive, send)

    @staticmethod
    async def _generate(services: Services, kind: EndpointKind, scope: Scope, receive: Receive, send: Send) -> None:
        bounds = services.bounds
        exchange = Exchange(scope, receive, send, _new_id(), body_s=bounds.body_s, request_s=bounds.request_s)
        await pipeline.serve(services, kind, exchange)

    @asynccontextmanager
    async def _run(self, _app: Starlette) -> AsyncIterator[None]:
        async with self._lifespan() as services:
            self._services = services
            yield
            self._services = None

    async def _show_limits(self, request: Request) -> Response:
        """The caller's own limits, over all models that it may ask for, and what is left of them."""
        services, caller = await self._known(request)
        try:
            _, states = await services.quota.look(caller, services.plans.all_of(caller, services.models.values()))
        except (RedisUnavailable, RedisRefused) as problem:
            raise limits_unknown(problem) from problem
        return _json(limits_body(states, caller.plan), 200)

    async def _list_models(self, request: Request) -> Response:
        services, _ = await self._known(request)
        return _json({"object": "list", "data": [_model(name, model) for name, model in services.models.items()]})

    async def _show_model(self, request: Request) -> Response:
        services, _ = await self._known(request)
        name = request.path_params["model"]
        return _json(_model(name, find_model(name, services.models)))

    async def _known(self, request: Request) -> tuple[Services, Caller]:
        """The services, and the caller of a key that is good now. With Redis away the cache's word is taken."""
        assert self._services is not None
        services, header = self._services, request.headers.get("authorization")
        token = bearer_token(header.encode("latin-1") if header is not None else None)
        known = services.directory.known(token) or await services.directory.resolve(token)
        try:
            epoch = await services.quota.epoch(known.caller.organisation)
        except (RedisUnavailable, RedisRefused):
            return services, known.caller
        if epoch != known.epoch:
            known = await services.directory.refresh(token, epoch)
        return services, known.caller

    async def _ready(self, _request: Request) -> Response:
        """Ready when Redis answers and some model is served; says of each part how it is."""
        services = self._services
        if services is None:
            return _json({"status": "starting"}, 503)
        redis = await _redis_word(services)
        models = services.health.report()
        ready = redis == "ready" and services.health.any_ready()
        return _json(
            {"status": "ready" if ready else "not ready", "redis": redis, "models": models}, 200 if ready else 503
        )


async def _redis_word(services: Services) -> str:
    try:
        async with asyncio.timeout(PING_S):
            await services.redis.ping()
    except (RedisUnavailable, RedisRefused, TimeoutError):
        return "not reachable"
    return "ready"


async def _live(_request: Request) -> Response:
    """The process answers: no part is asked, so that a dead dependency restarts nobody."""
    return _json({"status": "live"})


async def _unreachable(_request: Request) -> Response:
    """The hot paths are taken before the router; their routes are here so that other methods read 405."""
    raise InternalError("The gateway is stopping.")


def _model(name: str, model: ServedModel) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": model.entry.owned_by}


def _new_id() -> str:
    return request_id(time.time_ns() // 1_000_000, secrets.token_bytes(10))


def _json(body: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse(body, status, {"x-request-id": _new_id(), **(headers or {})})


async def _tell(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _json(error.body(), error.status, {k.decode(): v.decode() for k, v in error_headers(error)})


async def _tell_http(request: Request, error: Exception) -> Response:
    """Starlette's own refusals, in the one shape."""
    assert isinstance(error, HTTPException)
    known: ApiError
    if error.status_code == 405:
        known = MethodNotAllowed(f"{request.method} is not allowed here.")
        known.headers = tuple((k.lower().encode(), v.encode()) for k, v in (error.headers or {}).items())
    else:
        known = RouteNotFound("There is nothing at this URL. Catflap serves /v1/chat/completions, /v1/completions, "
                              "/v1/models and /v1/limits.")  # fmt: skip
    return await _tell(request, known)


async def _tell_fault(request: Request, _error: Exception) -> Response:
    return await _tell(request, InternalError("Something went wrong inside the gateway."))
