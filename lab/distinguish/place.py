"""Where the attack happens: a house with one gateway, an upstream with fixed answers, and the keys."""

import json
import shutil
import sys
from pathlib import Path

import msgspec
from sqlalchemy import update

from gateway.identity.issue import IssuedKey
from gateway.storage.tables import principal
from lab.bench.catflap import shipped_policies
from lab.bench.errors import BenchError
from lab.bench.processes import ROOT, listen
from lab.distinguish.asks import BODY_LIMIT, CONTEXT, MOST_OUTPUT, TABBY, Rooms
from lab.distinguish.upstream import BLOCK, ModelFile, Rates, Received
from lab.house.house import House
from lab.house.program import Program
from lab.house.redis import RedisHouse

OPEN, TIGHT = "open", "tight"
PLANS = {
    # nothing leaves a window of a day during a run, so that what is left is told alike to the unit
    OPEN: [
        {"measure": "requests", "per": "day", "at": "principal", "limit": 10**6},
        {"measure": "tokens", "per": "day", "at": "principal", "limit": 10**9},
        {"measure": "cost", "per": "month", "at": "principal", "limit": 10**8},
        {"measure": "concurrency", "at": "principal", "limit": 64},
    ],
    TIGHT: [
        {"measure": "requests", "per": "day", "at": "principal", "limit": 1000},
        {"measure": "tokens", "per": "day", "at": "key", "limit": 1200},
    ],
}
Tokens = tuple[str, str]
"""Of the clean and of the contained key."""


class Place:
    """The house, its upstream and four pairs of keys: clean and contained, clean and clean, each on both plans."""

    def __init__(self, folder: Path, rates: Rates) -> None:
        models = triton_models()
        self.rooms = Rooms(models / "demo" / "chat_template.jinja", models / "demo" / "tokenizer.json")
        self._log = folder / "received.jsonl"
        self._listener = listen()
        self._upstream = _upstream(folder, self._listener.fileno(), models, self._log, rates)
        fleet = folder / "cats.yaml"
        fleet.write_text(json.dumps(_fleet(self._listener.getsockname()[1], models)))
        settings = {
            "CATFLAP_FLEET": str(fleet),
            "CATFLAP_MAX_BODY_BYTES": str(BODY_LIMIT),
            "CATFLAP_ACCESS_LOG": "false",
            "CATFLAP_REDIS_TIMEOUT_MS": "5000",
        }
        redis = RedisHouse("7.0", folder / "redis")
        self.house = House(folder, redis, plans=PLANS, gateways=1, workers=(), settings=settings)
        shutil.copytree(shipped_policies() / "rules", self.house.policies / "rules")
        self.contained_keys: dict[str, Tokens] = {}
        self.clean_keys: dict[str, Tokens] = {}

    async def start(self) -> None:
        """Everything runs; the keys are there and nobody has used them. Raises BenchError."""
        self._upstream.start()
        self._listener.close()
        await self.house.start()
        for plan in (OPEN, TIGHT):
            ann, bob, cid, dan = [await self._key(name, plan) for name in ("ann", "bob", "cid", "dan")]
            await self._contain(bob)
            self.contained_keys[plan] = (ann.token, bob.token)
            self.clean_keys[plan] = (cid.token, dan.token)

    async def stop(self) -> None:
        await self.house.stop()
        self._upstream.stop()

    @property
    def port(self) -> int:
        """Of the gateway."""
        return self.house.gateways[0].port

    def received(self) -> list[Received]:
        """The prompts that the upstream has read so far."""
        return [msgspec.json.decode(line, type=Received) for line in self._log.read_bytes().splitlines()]

    async def _key(self, name: str, plan: str) -> IssuedKey:
        return await self.house.key("acme", "web", f"{name}-{plan}", plan)

    async def _contain(self, key: IssuedKey) -> None:
        """Before its first use, so that no gateway has to be told."""
        change = update(principal).where(principal.c.id == key.record.principal).values(state="contained")
        async with self.house.database.write() as connection:
            await connection.execute(change)


def triton_models() -> Path:
    """The demo model's files, of the checkout or of the installed package. Raises BenchError."""
    found = [path for path in (ROOT / "triton_models", ROOT / "gateway" / "share" / "triton_models") if path.is_dir()]
    if not found:
        raise BenchError("The folder triton_models is neither in the checkout nor in the installed package.")
    return found[0]


def _upstream(folder: Path, fd: int, models: Path, log: Path, rates: Rates) -> Program:
    files = {
        name: ModelFile(context, str(models / "demo" / "tokenizer.json") if name == TABBY else "")
        for name, context in CONTEXT.items()
    }
    path = folder / "models.json"
    path.write_bytes(msgspec.json.encode(files))
    log.touch()
    words = ["-m", "lab.distinguish.upstream", "--fd", str(fd), "--models", str(path), "--log", str(log)]
    words += ["--base-ms", str(rates.base), "--prefill-ms", str(rates.prefill), "--token-ms", str(rates.token)]
    words += [] if rates.cache else ["--no-cache"]
    return Program("the upstream", [sys.executable, *words], folder / "fixed.log", fds=[fd])


def _fleet(port: int, models: Path) -> dict[str, object]:
    def model(name: str) -> dict[str, object]:
        tokenizer = str(models / "demo" / "tokenizer.json") if name == TABBY else "bytes"
        return {
            "name": name,
            "triton": {"name": name},
            "endpoints": ["fixed"],
            "context_tokens": CONTEXT[name],
            "max_output_tokens": MOST_OUTPUT,
            "tokenizer": tokenizer,
            "chat_template": str(models / "demo" / "chat_template.jinja"),
            "abilities": ["logprobs"] if name == TABBY else [],
            "cache_block_tokens": BLOCK,
        }

    return {
        "apiVersion": "catflap/v1",
        "kind": "Fleet",
        "endpoints": [{"name": "fixed", "http": f"http://127.0.0.1:{port}"}],
        "models": [model(name) for name in CONTEXT],
    }
