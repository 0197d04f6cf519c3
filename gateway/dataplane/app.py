"""The data plane's ASGI app: the two hot paths first, everything else through Starlette's router."""

import asyncio
import secrets
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
from gateway.dataplane import kserve, pipeline
from gateway.dataplane.authenticate import Source, authenticate, models_for
from gateway.dataplane.endpoints import HOT, find_kind
from gateway.dataplane.exchange import Exchange, Header, error_headers
from gateway.dataplane.kinds import find_model
from gateway.dataplane.limits import limit_headers, limits_body, limits_unknown
from gateway.dataplane.services import Services
from gateway.dataplane.standing import standing_headers, standing_of
from gateway.fleet.models import Served
from gateway.quota.connection import RedisRefused, RedisUnavailable
from gateway.telemetry import clock
from gateway.wire.dialects import dialect_of

Lifespan = Callable[[], AbstractAsyncContextManager[Services]]
POSTED = (*HOT, "/v1/embeddings")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
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
                Route("/v2/{rest:path}", self._kserve, methods=METHODS),
                *(Route(path, _unreachable, methods=["POST"]) for path in POSTED),
            ],
            lifespan=self._run,
            exception_handlers={ApiError: _tell, HTTPException: _tell_http, Exception: _tell_fault},
        )
        app.router.redirect_slashes = False  # the redirect would be built from the Host header
        self._router: ASGIApp = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI. Paths are matched on `scope["path"]` alone; the Host header decides nothing."""
        if scope["type"] == "http" and scope["method"] == "POST" and self._services is not None:
            kind = find_kind(scope["path"], scope["headers"], self._services.models)
            if kind is not None:
                bounds = self._services.bounds
                exchange = Exchange(scope, receive, send, _new_id(), body_s=bounds.body_s, request_s=bounds.request_s)
                await pipeline.serve(self._services, kind, exchange)
                return
        await self._router(scope, receive, send)

    @asynccontextmanager
    async def _run(self, _app: Starlette) -> AsyncIterator[None]:
        async with self._lifespan() as services:
            self._services = services
            yield
            self._services = None

    async def _show_limits(self, request: Request) -> Response:
        """The caller's own limits, over all models that it may ask for, and what is left of them."""
        services, caller = await self._caller(request)
        try:
            states = await standing_of(services, caller)
        except (RedisUnavailable, RedisRefused) as problem:
            raise limits_unknown(problem) from problem
        return _json(limits_body(states, caller.plan), headers=_text(limit_headers(states)))

    async def _list_models(self, request: Request) -> Response:
        services, caller = await self._caller(request)
        models = models_for(caller, services.models)
        told = _text(await standing_headers(services, caller))
        listed = [_model(name, model) for name, model in models.items() if not model.entry.hidden]
        return _json({"object": "list", "data": listed}, headers=told)

    async def _show_model(self, request: Request) -> Response:
        services, caller = await self._caller(request)
        name = request.path_params["model"]
        model = find_model(name, models_for(caller, services.models))
        return _json(_model(name, model), headers=_text(await standing_headers(services, caller)))

    async def _kserve(self, request: Request) -> Response:
        """What KServe's clients ask beside their requests."""
        path = request.scope["path"]
        name, verb = kserve.model_and_verb(path)
        if request.method == "GET" and path == "/v2/health/live":
            return _json({"live": True})
        if request.method == "GET" and path == "/v2/health/ready":
            ready = await self._is_ready()
            return _json({"ready": ready}, 200 if ready else 503)
        if request.method != "GET" or not path.startswith(kserve.KSERVE_MODELS) or verb not in ("", "ready"):
            raise kserve.refuse(request.method, path)
        services, caller = await self._caller(request)
        models = models_for(caller, services.models)
        if not verb:
            return _json(kserve.metadata(name, models))
        ready = kserve.ready(name, models, services.health)
        return _json({"name": name, "ready": ready}, 200 if ready else 503)

    async def _is_ready(self) -> bool:
        services = self._services
        return services is not None and services.health.any_ready() and await _redis_word(services) == "ready"

    async def _caller(self, request: Request) -> tuple[Services, Caller]:
        """The services and a caller whose credential is good now. With Redis away the cache's word is taken."""
        assert self._services is not None
        services, source = self._services, Source.of(request.scope)
        known = await authenticate(services, source)
        try:
            epoch = await services.quota.epoch(known.caller.organisation)
        except (RedisUnavailable, RedisRefused):
            return services, known.caller
        if epoch != known.epoch:
            known = await authenticate(services, source, epoch)
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


def _model(name: str, model: Served) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": model.entry.owned_by}


def _new_id() -> str:
    return request_id(clock.now_ms(), secrets.token_bytes(10))


def _json(body: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse(body, status, {"x-request-id": _new_id(), **(headers or {})})


def _text(headers: list[Header]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in headers}


async def _tell(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    headers = _text(error_headers(error))
    body = dialect_of(request.scope["path"]).error(error)
    headers |= {"x-request-id": _new_id(), "content-type": "application/json"}
    return Response(body, error.status, headers)


async def _tell_http(request: Request, error: Exception) -> Response:
    """Starlette's own refusals, in the one shape."""
    assert isinstance(error, HTTPException)
    known: ApiError
    if error.status_code == 405:
        known = MethodNotAllowed(f"{request.method} is not allowed here.")
        known.headers = tuple((k.lower().encode(), v.encode()) for k, v in (error.headers or {}).items())
    else:
        known = RouteNotFound("There is nothing at this URL. Catflap serves /v1/chat/completions, /v1/completions, "
                              "/v1/embeddings, /v1/models, /v1/limits and KServe's /v2.")  # fmt: skip
    return await _tell(request, known)


async def _tell_fault(request: Request, _error: Exception) -> Response:
    return await _tell(request, InternalError("Something went wrong inside the gateway."))
