"""The admin API, `/api/v1`: keys, principals and their own limits; how principals are regarded, policies and evidence
are in modules of their own. Routes over the functions that the commands call.

Every change leaves one line in the log: what was done, to what, from where; no secrets.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta
from redis.asyncio import Redis
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.admin.answers import answer, body_of, found, log, refusal, whole_number
from gateway.admin.evidence import EvidenceRoutes
from gateway.admin.policies import Policies
from gateway.admin.regard import RegardApi
from gateway.core.caller import Override
from gateway.core.errors import ApiError, InternalError, InvalidRequest, MethodNotAllowed, NotFound, Unavailable
from gateway.identity.bounds import BadBound, check_bounds
from gateway.identity.issue import (
    IssuedKey,
    KeyRecord,
    issue_key,
    list_keys,
    plan_names,
    revoke_key,
    rotate_key,
    show_key,
)
from gateway.identity.names import BadName
from gateway.identity.principals import BadOverride, Changed, remove_limit, set_limit, show_principal
from gateway.identity.regard import BadRegard
from gateway.storage.database import Database
from gateway.telemetry import clock

PAGE = 100
MAX_PAGE = 1000


class NewKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of `POST keys`: the options of `catflap key create`."""

    organisation: str
    project: str
    plan: str
    principal: str | None = None
    name: str | None = None
    expires_in_s: Annotated[int, Meta(ge=1, le=3_153_600_000)] | None = None
    scopes: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None
    addresses: tuple[str, ...] | None = None
    tags: tuple[str, ...] | None = None


class Rotation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST keys/{id}/rotate`."""

    overlap_s: Annotated[int, Meta(ge=0, le=31_536_000)] = 86_400


class OneLimit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `PUT principals/{id}/limits`: one limit of its own, in place of one on the same."""

    measure: str
    limit: int
    per: str | None = None
    model: str | None = None


@dataclass(frozen=True)
class Api:
    """The handlers and what they work with."""

    database: Database
    redis: Redis
    partitions: int
    pepper: bytes
    plans: Path
    evidence: EvidenceRoutes

    def app(self) -> Starlette:
        """The application, to be mounted behind the guard."""
        app = Starlette(
            routes=[
                Route("/keys", self.list_keys, methods=["GET"]),
                Route("/keys", self.create_key, methods=["POST"]),
                Route("/keys/{id}", self.show_key, methods=["GET"]),
                Route("/keys/{id}/rotate", self.rotate_key, methods=["POST"]),
                Route("/keys/{id}/revoke", self.revoke_key, methods=["POST"]),
                Route("/principals/{id}", self.show_principal, methods=["GET"]),
                Route("/principals/{id}/limits", self.show_limits, methods=["GET"]),
                Route("/principals/{id}/limits", self.set_limit, methods=["PUT"]),
                Route("/principals/{id}/limits", self.remove_limit, methods=["DELETE"]),
                *RegardApi(self.database, self.redis, self.partitions).routes(),
                *Policies(self.database, self.redis, self.plans.parent).routes(),
                *self.evidence.routes(),
            ],
            exception_handlers=dict.fromkeys((*WRONG, *AWAY, ApiError, HTTPException, Exception), tell),
        )
        app.router.redirect_slashes = False  # the redirect would be built from the Host header
        return app

    async def list_keys(self, request: Request) -> Response:
        """Oldest first, `limit` of them, those after the key `after`; of one `organisation` (name or id), or of all."""
        limit = whole_number(request, "limit", PAGE, MAX_PAGE)
        query = request.query_params
        records = await list_keys(self.database, query.get("organisation"), after=query.get("after"), limit=limit)
        return answer({"data": records, "has_more": len(records) == limit})

    async def create_key(self, request: Request) -> Response:
        """A new key; its token is in this answer and nowhere else. Nothing remembers a key that is new, so nobody needs
        to be told."""
        wanted = await body_of(request, NewKey)
        plans = plan_names(self.plans)
        if wanted.plan not in plans:
            raise InvalidRequest(f"There is no such plan: there are {', '.join(plans) or 'none'}.", param="plan")
        life = wanted.expires_in_s
        issued = await issue_key(
            self.database,
            self.pepper,
            organisation=wanted.organisation,
            project=wanted.project,
            principal=wanted.principal,
            plan=wanted.plan,
            name=wanted.name,
            expires_at_ms=None if life is None else clock.now_ms() + life * 1000,
            bounds=check_bounds(
                scopes=wanted.scopes, models=wanted.models, addresses=wanted.addresses, tags=wanted.tags
            ),
        )
        log(request, "key_created", issued.record.organisation, key=issued.record.id)
        return answer(with_token(issued), 201)

    async def show_key(self, request: Request) -> Response:
        """A key, all but its secrets."""
        return answer(found(await show_key(self.database, request.path_params["id"]), "key"))

    async def rotate_key(self, request: Request) -> Response:
        """A new secret for the key; the one that it has lives on for the overlap."""
        wanted = await body_of(request, Rotation)
        key_id, overlap_ms = request.path_params["id"], wanted.overlap_s * 1000
        rotated = await rotate_key(self.database, self.redis, self.partitions, self.pepper, key_id, overlap_ms)
        if rotated is None:
            raise NotFound("There is no such key.")
        if isinstance(rotated, KeyRecord):
            raise InvalidRequest("The key is revoked or expired and stays so: create another one.")
        log(request, "key_rotated", rotated.record.organisation, key=rotated.record.id, told=rotated.told)
        return answer({**with_token(rotated), "told": rotated.told, "ended_early": rotated.ended_early})

    async def revoke_key(self, request: Request) -> Response:
        """End the key with all of its secrets."""
        revoked = found(await revoke_key(self.database, self.redis, self.partitions, request.path_params["id"]), "key")
        log(request, "key_revoked", revoked.record.organisation, key=revoked.record.id, told=revoked.told)
        return answer({**msgspec.structs.asdict(revoked.record), "told": revoked.told})

    async def show_principal(self, request: Request) -> Response:
        """A principal with its own limits and how it is regarded."""
        return answer(found(await show_principal(self.database, request.path_params["id"]), "principal"))

    async def show_limits(self, request: Request) -> Response:
        """A principal's own limits."""
        record = found(await show_principal(self.database, request.path_params["id"]), "principal")
        return answer({"data": record.limits})

    async def set_limit(self, request: Request) -> Response:
        """Give the principal one limit of its own."""
        wanted = await body_of(request, OneLimit)
        override = Override(wanted.measure, wanted.limit, wanted.per, wanted.model)
        return await self._change(request, set_limit, "principal_limit_set", override)

    async def remove_limit(self, request: Request) -> Response:
        """Take it away: `measure`, `per` and `model` in the query name it."""
        query = request.query_params
        override = Override(query.get("measure", ""), 1, query.get("per"), query.get("model"))
        return await self._change(request, remove_limit, "principal_limit_removed", override)

    async def _change(
        self,
        request: Request,
        change: Callable[[Database, Redis, int, str, Override], Awaitable[Changed | None]],
        what: str,
        override: Override,
    ) -> Response:
        principal = request.path_params["id"]
        changed = found(await change(self.database, self.redis, self.partitions, principal, override), "principal")
        if not changed.found:
            raise NotFound("The principal has no such limit of its own.")
        named = {"principal": principal, "measure": override.measure, "per": override.per, "model": override.model}
        number = {"limit": override.limit} if what == "principal_limit_set" else {}
        log(request, what, changed.record.organisation, **named, **number, told=changed.told)
        return answer({"data": changed.record.limits, "told": changed.told})


WRONG = (BadName, BadBound, BadOverride, BadRegard)
AWAY = (SQLAlchemyError, OSError, TimeoutError)


def tell(request: Request, error: Exception) -> Response:
    """Whatever went wrong, in the one shape."""
    if isinstance(error, ApiError):
        return refusal(error)
    if isinstance(error, WRONG):
        return refusal(InvalidRequest(f"That cannot be set: {error}."))
    if isinstance(error, AWAY):
        return refusal(Unavailable("The database cannot be used at the moment. Try again.", retry_after_ms=1000))
    if isinstance(error, HTTPException):
        if error.status_code == 405:
            return refusal(MethodNotAllowed(f"{request.method} is not allowed here."))
        return refusal(NotFound("There is nothing at this URL of the admin API."))
    return refusal(InternalError("Something went wrong inside the gateway."))


def with_token(issued: IssuedKey) -> dict[str, object]:
    """A key as it is told once: `id`, `key`, then the rest of its record."""
    return {"id": issued.record.id, "key": issued.token, **msgspec.structs.asdict(issued.record)}
