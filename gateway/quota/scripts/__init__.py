"""The Lua scripts, as text. Those that need the time or the calendar have those put before them."""

from importlib.resources import files

from gateway.quota.connection import Script


def _read(*names: str) -> Script:
    return Script("".join(files(__name__).joinpath(f"{name}.lua").read_text() for name in names))


ADMIT = _read("clock", "month", "admit")
SETTLE, RENEW, EXPIRED, EPOCH, BUMP = (_read("clock", name) for name in ("settle", "renew", "expired", "epoch", "bump"))
RESTORE, BEAT, DROP = (_read(name) for name in ("restore", "beat", "drop"))
CONFIRM, CONFIRMED, REPLACE = (_read(name) for name in ("confirm", "confirmed", "replace"))
