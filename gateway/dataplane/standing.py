"""Where a caller's limits stand, told with answers that reserve nothing."""

from gateway.core.caller import Caller
from gateway.core.errors import ApiError, RateLimited, Unavailable
from gateway.core.reservation import LimitState
from gateway.dataplane.authenticate import models_for
from gateway.dataplane.call import Call
from gateway.dataplane.exchange import Header
from gateway.dataplane.limits import limit_headers
from gateway.dataplane.services import Services
from gateway.quota.connection import RedisRefused, RedisUnavailable


async def standing_of(services: Services, caller: Caller) -> tuple[LimitState, ...]:
    """All limits of the caller, over all models that it may ask for. Raises RedisUnavailable, RedisRefused."""
    limits = services.plans.all_of(caller, models_for(caller, services.models).values())
    _, states = await services.quota.look(caller, limits)
    return states


async def standing_headers(services: Services, caller: Caller) -> list[Header]:
    """The same as headers; none where nobody can say."""
    try:
        return limit_headers(await standing_of(services, caller))
    except (RedisUnavailable, RedisRefused, ApiError):
        return []


async def headers_of(services: Services, call: Call, error: ApiError) -> list[Header]:
    """What an error tells of limits: as the reservation left them, or as they stand. A refusal by a limit has its own,
    and where a part is away nobody waits for it once more."""
    if call.reservation is not None:
        return limit_headers(call.reservation.states)
    if call.caller is None or isinstance(error, RateLimited | Unavailable) or error.headers:
        return []
    return await standing_headers(services, call.caller)
