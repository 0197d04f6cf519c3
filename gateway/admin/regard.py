"""The admin API's routes about how principals are regarded."""

from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta
from redis.asyncio import Redis
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.admin.answers import answer, body_of, found, log, whole_number
from gateway.core.errors import InvalidRequest
from gateway.core.facts import State
from gateway.identity import regard
from gateway.identity.regard import STATES, Done
from gateway.storage.database import Database

ACTOR = "admin token"
"""The author of a change whose body names none."""
PAGE = 100
MAX_PAGE = 1000
Seconds = Annotated[int, Meta(ge=1, le=315_360_000)]


class NewState(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of `PUT principals/{id}/regard`. `for_s`: seconds, then it is normal again; None: until released.
    `score` and `cluster` stay where they are not given."""

    state: State
    reason: str
    author: str = ACTOR
    for_s: Seconds | None = None
    score: float | None = None
    cluster: str | None = None


class Containment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of `POST principals/{id}/contain`."""

    reason: str
    author: str = ACTOR
    for_s: Seconds | None = None
    cluster: str | None = None


class Release(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of `POST principals/{id}/release`."""

    reason: str
    author: str = ACTOR


class NeverContain(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of `PUT principals/{id}/never-contain`."""

    on: bool
    reason: str
    author: str = ACTOR


@dataclass(frozen=True)
class RegardApi:
    """The handlers and what they work with."""

    database: Database
    redis: Redis
    partitions: int

    def routes(self) -> list[Route]:
        """To stand among the others."""
        return [
            Route("/principals", self.list_principals, methods=["GET"]),
            Route("/principals/{id}/regard", self.show, methods=["GET"]),
            Route("/principals/{id}/regard", self.put, methods=["PUT"]),
            Route("/principals/{id}/contain", self.contain, methods=["POST"]),
            Route("/principals/{id}/release", self.release, methods=["POST"]),
            Route("/principals/{id}/never-contain", self.never_contain, methods=["PUT"]),
        ]

    async def list_principals(self, request: Request) -> Response:
        """Those in `state` or of `cluster`, or all who are not regarded as usual; `limit` of those after the id
        `after`."""
        query, limit = request.query_params, whole_number(request, "limit", PAGE, MAX_PAGE)
        state = query.get("state")
        if state is not None and state not in STATES:
            raise InvalidRequest(f"There is no such state: there are {', '.join(STATES)}.", param="state")
        principals = await regard.list_regarded(
            self.database,
            state=state,
            cluster=query.get("cluster"),
            after=query.get("after", ""),
            limit=limit,
        )
        return answer({"data": principals, "has_more": len(principals) == limit})

    async def show(self, request: Request) -> Response:
        """How the principal is regarded, and the last changes of it."""
        return answer(found(await regard.standing(self.database, request.path_params["id"]), "principal"))

    async def put(self, request: Request) -> Response:
        """Put it in any state."""
        wanted = await body_of(request, NewState)
        done = await regard.regard_as(
            *self._where(request),
            wanted.state,
            author=wanted.author,
            reason=wanted.reason,
            for_ms=None if wanted.for_s is None else wanted.for_s * 1000,
            score=wanted.score,
            cluster=wanted.cluster,
        )
        return self._done(request, done)

    async def contain(self, request: Request) -> Response:
        """Contain it."""
        wanted = await body_of(request, Containment)
        done = await regard.contain(
            *self._where(request),
            author=wanted.author,
            reason=wanted.reason,
            for_ms=None if wanted.for_s is None else wanted.for_s * 1000,
            cluster=wanted.cluster,
        )
        return self._done(request, done)

    async def release(self, request: Request) -> Response:
        """Regard it as normal again."""
        wanted = await body_of(request, Release)
        done = await regard.release(*self._where(request), author=wanted.author, reason=wanted.reason)
        return self._done(request, done)

    async def never_contain(self, request: Request) -> Response:
        """Put it on the never-contain list, or take it off."""
        wanted = await body_of(request, NeverContain)
        done = await regard.set_never_contain(
            *self._where(request), wanted.on, author=wanted.author, reason=wanted.reason
        )
        return self._done(request, done)

    def _where(self, request: Request) -> tuple[Database, Redis, int, str]:
        return self.database, self.redis, self.partitions, request.path_params["id"]

    def _done(self, request: Request, done: Done | None) -> Response:
        done = found(done, "principal")
        named = {"principal": done.principal, "state": done.regard.state, "never_contain": done.regard.never_contain}
        log(request, "principal_regarded", done.organisation, **named, changed=done.changed, told=done.told)
        return answer(done)
