"""The admin API's part about policies, `/api/v1/policies`: what is in force, its history, and every change of it. The
same functions as `catflap policy`.

Who holds the token says who makes a change: `author` is written down as it is given, and in the log beside the address.
"""

from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog
from redis.asyncio import Redis
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.admin.answers import answer, body_of
from gateway.core.errors import InvalidRequest, NotFound
from gateway.policy.problem import PolicyError
from gateway.rules.directory import MAX_TOTAL, gathered
from gateway.rules.revisions import BadChange, Change, Refused, apply, rollback, switch
from gateway.rules.standing import standing
from gateway.storage.database import Database
from gateway.storage.policies import files_of, revisions

MAX_APPLY_BYTES = 2 * MAX_TOTAL
"""Of a body: text grows when JSON escapes it."""
PAGE = 100


class Applied(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of `POST policies/apply`: the files by name."""

    files: dict[str, str]
    author: str
    message: str
    source: str | None = None


class RolledBack(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of `POST policies/rollback`. `to`: a revision; 0: the directory; null: what was applied before."""

    author: str
    to: int | None = None
    message: str = ""


class Switched(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of `POST policies/off` and `policies/on`."""

    author: str
    message: str = ""


@dataclass(frozen=True)
class Policies:
    """The handlers. `folder`: the directory of policies."""

    database: Database
    redis: Redis
    folder: Path

    def routes(self) -> list[Route]:
        """To be mounted in the API."""
        return [
            Route("/policies/current", self.current, methods=["GET"]),
            Route("/policies/revisions", self.revisions, methods=["GET"]),
            Route("/policies/rulesets/{version}", self.ruleset, methods=["GET"]),
            Route("/policies/apply", self.apply, methods=["POST"]),
            Route("/policies/rollback", self.rollback, methods=["POST"]),
            Route("/policies/off", self.off, methods=["POST"]),
            Route("/policies/on", self.on, methods=["POST"]),
        ]

    async def current(self, _: Request) -> Response:
        """The rules in force, where they are from, and whether the directory loads."""
        return answer((await standing(self.database, self.folder)).told())

    async def revisions(self, request: Request) -> Response:
        """The history, the last change first, those with a number below `before`."""
        before = request.query_params.get("before", "0")
        if not (before.isascii() and before.isdigit() and len(before) < 10):
            raise InvalidRequest("It must be the number of a revision.", param="before")
        async with self.database.read() as connection:
            found = await revisions(connection, before=int(before) or None, most=PAGE)
        return answer({"data": found, "has_more": len(found) == PAGE})

    async def ruleset(self, request: Request) -> Response:
        """The files of a ruleset that was once in force."""
        async with self.database.read() as connection:
            files = await files_of(connection, request.path_params["version"])
        if files is None:
            raise NotFound("There is no such ruleset.")
        return answer({"version": request.path_params["version"], "files": files})

    async def apply(self, request: Request) -> Response:
        """Check the files and put them in force."""
        body = await body_of(request, Applied, MAX_APPLY_BYTES)
        try:
            files = gathered("the body", body.files)
        except PolicyError as problem:
            raise InvalidRequest(str(problem), param="files") from None
        work = apply(self.database, self.redis, files, author=body.author, message=body.message, source=body.source)
        return await self._changed(request, "policies_applied", work)

    async def rollback(self, request: Request) -> Response:
        """Go back."""
        body = await body_of(request, RolledBack)
        work = rollback(self.database, self.redis, body.to, author=body.author, message=body.message)
        return await self._changed(request, "policies_rolled_back", work)

    async def off(self, request: Request) -> Response:
        """End all containment at once."""
        body = await body_of(request, Switched)
        work = switch(self.database, self.redis, False, author=body.author, message=body.message)
        return await self._changed(request, "containment_off", work)

    async def on(self, request: Request) -> Response:
        """Let the policies contain again."""
        body = await body_of(request, Switched)
        work = switch(self.database, self.redis, True, author=body.author, message=body.message)
        return await self._changed(request, "containment_on", work)

    async def _changed(self, request: Request, what: str, work: Awaitable[Change]) -> Response:
        """Make the change, log who made it, and tell what came of it. Raises InvalidRequest."""
        try:
            change = await work
        except Refused as refused:
            findings = [str(finding) for finding in refused.findings if finding.level == "error"]
            raise InvalidRequest(f"{refused} {' '.join(findings[:5])}", param="files") from None
        except PolicyError as problem:
            raise InvalidRequest(f"What was in force then cannot be used any more: {problem}", param="to") from None
        except BadChange as bad:
            raise InvalidRequest(str(bad)) from None
        revision = change.revision
        address = request.client.host if request.client else None
        structlog.get_logger().info(
            what,
            actor="admin token",
            author=revision.author,
            address=address,
            revision=revision.number,
            version=revision.version,
            changed=change.changed,
            told=change.told,
        )
        warnings = [finding._asdict() for finding in change.warnings]
        return answer({**msgspec.structs.asdict(change), "warnings": warnings})
