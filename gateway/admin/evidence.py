"""The admin API's routes for evidence and canaries. Each reading of evidence leaves a row, and a line in the log."""

import asyncio
from dataclasses import dataclass, field

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.admin.answers import answer, body_of, whole_number
from gateway.core.errors import InvalidRequest, NotFound
from gateway.evidence.read import BadReading, read_evidence
from gateway.evidence.seal import Seal, Unreadable
from gateway.evidence.trace import BadText, trace
from gateway.storage import evidence
from gateway.storage.database import Database
from gateway.telemetry import clock

PAGE = 100
MAX_PAGE = 1000


class NewReading(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST evidence/{id}/readings`: who reads it, and why."""

    reader: str
    reason: str


class Pasted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST canaries/trace`."""

    text: str


@dataclass(frozen=True)
class EvidenceRoutes:
    """The handlers and what they work with."""

    database: Database
    seal: Seal
    searching: asyncio.Lock = field(default_factory=asyncio.Lock)

    def routes(self) -> list[Route]:
        """For the API's application."""
        return [
            Route("/evidence", self.list_evidence, methods=["GET"]),
            Route("/evidence/{id}/readings", self.read_evidence, methods=["POST"]),
            Route("/evidence-readings", self.list_readings, methods=["GET"]),
            Route("/canaries/trace", self.trace, methods=["POST"]),
        ]

    async def list_evidence(self, request: Request) -> Response:
        """What is kept, without content, newest first: `limit` of it, of one `principal` or of all, `hours` back."""
        now_ms = clock.now_ms()
        since_ms = now_ms - whole_number(request, "hours", 24, 100_000) * 3_600_000
        most = whole_number(request, "limit", PAGE, MAX_PAGE)
        only = request.query_params.get("principal")
        async with self.database.read() as connection:
            rows = await evidence.listed(connection, now_ms=now_ms, since_ms=since_ms, principal=only, most=most)
        return answer({"data": rows, "has_more": len(rows) == most})

    async def read_evidence(self, request: Request) -> Response:
        """A request's evidence. That it is read is written down before it is decrypted."""
        wanted = await body_of(request, NewReading)
        name = request.path_params["id"]
        try:
            opened = await read_evidence(self.database, self.seal, name, reader=wanted.reader, reason=wanted.reason)
        except BadReading as problem:
            raise InvalidRequest(f"That cannot be written down: {problem}.") from None
        except Unreadable as problem:
            raise InvalidRequest(f"The evidence cannot be shown. {problem}") from None
        if opened is None:
            raise NotFound("There is no evidence of such a request, or none any more.")
        address = request.client.host if request.client else None
        structlog.get_logger().info(
            "evidence_read", actor="admin token", address=address, request=opened.request, principal=opened.principal
        )
        return answer(opened)

    async def list_readings(self, request: Request) -> Response:
        """Who has read which evidence, when and why, newest first: `limit` of them, of one `principal` or of all."""
        most = whole_number(request, "limit", PAGE, MAX_PAGE)
        only = request.query_params.get("principal")
        async with self.database.read() as connection:
            rows = await evidence.readings(connection, principal=only, most=most)
        return answer({"data": rows, "has_more": len(rows) == most})

    async def trace(self, request: Request) -> Response:
        """Whose answer a text is from, the surest first; nobody's: an empty list."""
        pasted = await body_of(request, Pasted)
        try:
            async with self.searching:  # one at a time: a text made for the purpose takes half a minute of a core
                return answer({"data": await trace(self.database, pasted.text)})
        except BadText as problem:
            raise InvalidRequest(f"This cannot be searched: {problem}.", param="text") from None
