"""Who is asking."""

import msgspec


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """A principal as its credential resolved it: organisation > project > principal > key, all by id."""

    organisation: str
    project: str
    principal: str
    key: str
    plan: str
