"""The Lua scripts, as text. Those that need the time have the partition's clock put before them."""

from importlib.resources import files

from gateway.quota.connection import Script


def _read(name: str) -> str:
    return files(__name__).joinpath(f"{name}.lua").read_text()


ADMIT, SETTLE, RENEW, EXPIRED = (
    Script(_read("clock") + _read(name)) for name in ("admit", "settle", "renew", "expired")
)
EPOCH = Script(_read("epoch"))
RAISE, CONFIRM, REPLACE = (Script(_read(name)) for name in ("raise", "confirm", "replace"))
