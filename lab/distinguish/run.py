"""One house, one attack, one attack on two clean keys, and one on every known leak; what each of them found."""

import asyncio
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from sqlalchemy import update

from gateway.identity.issue import IssuedKey
from gateway.storage.tables import principal
from lab.bench.catflap import shipped_policies
from lab.bench.errors import BenchError
from lab.bench.processes import ROOT, listen
from lab.distinguish.asks import BODY_LIMIT, CONTEXT, MOST_OUTPUT, TABBY, Ask, Draw, Kind, Rooms
from lab.distinguish.channels import Channel, Comparison, observe
from lab.distinguish.classify import Judged, judge, middle_and_error
from lab.distinguish.client import Answer, Connection
from lab.distinguish.features import FEATURES, features
from lab.distinguish.kinds import BAD, EDGES, ORDINARY, SWEEP, UNTIL_REFUSED
from lab.distinguish.leaks import LEAKS, TIMING, Leak, Proxy
from lab.distinguish.proof import Proof, Sent, prove
from lab.distinguish.upstream import ModelFile, Rates, Received
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
TIMED_CONTROL = 200
"""Pairs of the control whose leak is one of time."""
TOKEN = FEATURES.index("first token")
SWEPT = 8
"""About one pair in so many is of the sweep."""

Say = Callable[[str], None]
Tokens = tuple[str, str]
"""Of the clean and of the contained key."""


class Slot(NamedTuple):
    """A place in the order of pairs."""

    kind: Kind
    seed: str
    turn: int = 0
    tight: bool = False
    timed: bool = False


class Attack(msgspec.Struct, frozen=True, kw_only=True):
    """What an attacker found of two keys."""

    pairs: int
    timed: int
    channels: list[Channel]
    classifiers: list[Judged]
    shifts: dict[str, tuple[float, float]]
    """Feature -> the median of the contained key's less the clean one's, and about its standard error."""
    by_kind: dict[str, tuple[float, float]]
    """Kind -> the same of the first token alone."""

    @property
    def differing(self) -> list[Channel]:
        return [one for one in self.channels if one.differing]

    @property
    def told_apart(self) -> bool:
        return bool(self.differing) or any(one.tells for one in self.classifiers)


class Control(msgspec.Struct, frozen=True, kw_only=True):
    """A known leak, where it had to be found, and whether it was."""

    leak: str
    channel: str
    pairs: int
    found: bool


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run."""

    attack: Attack
    proof: Proof
    null: Attack
    controls: list[Control]
    refusals: int
    """Kinds of bad request that were tried."""

    @property
    def problems(self) -> list[str]:
        """In sentences; none where nothing tells the keys apart and the attacker is not blind."""
        found = [f"{name}: {said}" for name, one in self._attacks() for said in _problems(one)]
        found += self.proof.problems
        return found + [f"The leak was not found: {one.leak}." for one in self.controls if not one.found]

    def _attacks(self) -> list[tuple[str, Attack]]:
        return [("A clean and a contained key", self.attack), ("Two clean keys", self.null)]

    def json(self) -> str:
        """All of it, and the problems."""
        return msgspec.json.format(msgspec.json.encode({"problems": self.problems, "result": self})).decode()


def _problems(attack: Attack) -> list[str]:
    found = [f"{one.name} differs in {one.differing} of {one.compared} pairs." for one in attack.differing]
    found += [
        f"{one.classifier} is right on {one.accuracy:.1%} of {one.pairs} pairs that it had not seen."
        for one in attack.classifiers
        if one.tells
    ]
    return found


def run(*, pairs: int, seed: int, rates: Rates, say: Say = lambda line: None) -> Result:
    """So many pairs of each attack. Raises BenchError."""
    return asyncio.run(run_async(pairs=pairs, seed=seed, rates=rates, say=say))


async def run_async(*, pairs: int, seed: int, rates: Rates, say: Say) -> Result:
    """`run` in an event loop that is there already."""
    with tempfile.TemporaryDirectory(prefix="cf-distinguish-") as created:
        place = Place(Path(created), rates)
        try:
            await place.start()
            attacker = Attacker(place, seed)
            attack = await attacker.attack("attack", place.contained_keys, schedule(pairs, f"{seed} attack"))
            proof = prove(attacker.sent, place.received())
            say(f"a clean and a contained key: {_summary(attack)}")
            null = await attacker.attack("null", place.clean_keys, schedule(pairs, f"{seed} null"))
            say(f"two clean keys: {_summary(null)}")
            controls = [await attacker.control(leak) for leak in LEAKS]
            say(f"{sum(one.found for one in controls)} of {len(controls)} leaks found")
            return Result(attack=attack, proof=proof, null=null, controls=controls, refusals=len(BAD))
        finally:
            await place.stop()


def schedule(pairs: int, seed: str) -> list[Slot]:
    """The order of the pairs: every kind of the sweep among ordinary ones, a sweep and 40 at least; then the keys of a
    tight plan until it is used up."""
    sweeps = max(1, pairs // (SWEPT * len(SWEEP)))
    swept = [Slot(kind, f"{seed} {kind.name} {n}") for n in range(sweeps) for kind in SWEEP]
    tight = [Slot(kind, f"{seed} tight {n}", tight=True) for n, kind in enumerate(UNTIL_REFUSED)]
    return mixed(max(pairs - len(swept), 40), seed, swept) + tight


def mixed(ordinary: int, seed: str, swept: Sequence[Slot] = ()) -> list[Slot]:
    """So many ordinary pairs, and the others among them in any order; the turns of a chat follow each other."""
    chance = random.Random(seed)
    units = [[slot] for slot in swept]
    while ordinary > 0:
        kind = chance.choices(ORDINARY, [one.weight for one in ORDINARY])[0]
        units.append([Slot(kind, f"{seed} ordinary {ordinary}", turn, timed=True) for turn in range(kind.turns)])
        ordinary -= kind.turns
    chance.shuffle(units)
    return [slot for unit in units for slot in unit]


class Place:
    """The house, its upstream and four pairs of keys: clean and contained, clean and clean, each on both plans."""

    def __init__(self, folder: Path, rates: Rates) -> None:
        models = _triton_models()
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


class Attacker:
    """Asks with two keys in turn."""

    def __init__(self, place: Place, seed: int) -> None:
        self._place = place
        self._seed = seed
        self.sent: list[Sent] = []

    async def attack(self, name: str, keys: dict[str, Tokens], slots: Sequence[Slot], port: int = 0) -> Attack:
        """All pairs, one request after the other; in a thread, with sockets of its own. Raises BenchError."""
        try:
            return await asyncio.to_thread(self._attack, name, keys, slots, port or self._place.port)
        except (OSError, EOFError) as problem:
            raise BenchError(f"The gateway gave no answer in the attack {name!r}: {problem!r}.") from problem

    async def control(self, leak: Leak) -> Control:
        """Whether a leak is found between two clean keys."""
        seed, timing = f"{self._seed} {leak.name}", leak.channel == TIMING
        kinds = (*EDGES, *BAD) if leak.channel == "errors" else EDGES
        slots = (
            mixed(TIMED_CONTROL, seed) if timing else mixed(0, seed, [Slot(kind, seed + kind.name) for kind in kinds])
        )
        keys = self._place.clean_keys
        async with Proxy(self._place.port, leak, keys[OPEN][1]).open() as proxy:
            found = await self.attack(leak.name, keys, slots, proxy.port)
        differing = {one.name for one in found.differing}
        seen = any(one.tells for one in found.classifiers) if timing else leak.channel in differing
        return Control(leak=leak.name, channel=leak.channel, pairs=found.pairs, found=seen)

    def _attack(self, name: str, keys: dict[str, Tokens], slots: Sequence[Slot], port: int) -> Attack:
        chance = random.Random(f"{self._seed} {name} order")
        lines = Connection(port), Connection(port)
        comparison, rows, firsts, kinds = Comparison(), [], [], []
        for number, slot in enumerate(slots):
            asks = [slot.kind.make(Draw(slot.seed, side, slot.turn, self._place.rooms)) for side in (0, 1)]
            first = chance.randrange(2)
            answers: dict[int, Answer] = {}
            for side in (first, 1 - first):
                token = keys[TIGHT if slot.tight else OPEN][side]
                answers[side] = lines[side].ask(asks[side].bytes_for(token))
                self._note(name, side, asks[side])
            observed = [observe(answers[side], _words(asks[side])) for side in (0, 1)]
            comparison.add(number, slot.kind.name, *observed)
            if slot.timed:
                one, two = features(answers[first]), features(answers[1 - first])
                rows.append([a - b for a, b in zip(one, two, strict=True)])
                firsts.append(first == 1)
                kinds.append(slot.kind.name)
        for line in lines:
            line.close()
        return Attack(
            pairs=len(slots),
            timed=len(rows),
            channels=comparison.channels(),
            classifiers=judge(rows, firsts),
            shifts={name: _shift(at, rows, firsts) for at, name in enumerate(FEATURES)},
            by_kind={name: _shift(TOKEN, *_only(name, kinds, rows, firsts)) for name in dict.fromkeys(kinds)},
        )

    def _note(self, name: str, side: int, ask: Ask) -> None:
        if name == "attack" and ask.texts:
            self.sent.append(Sent(side == 1, ask.path, ask.texts))


def _shift(at: int, rows: Sequence[Sequence[float]], contained_first: Sequence[bool]) -> tuple[float, float]:
    """How far one of the contained key's numbers lies from the clean one's."""
    return middle_and_error([row[at] if first else -row[at] for row, first in zip(rows, contained_first, strict=True)])


def _only(
    name: str, kinds: Sequence[str], rows: Sequence[Sequence[float]], firsts: Sequence[bool]
) -> tuple[list[Sequence[float]], list[bool]]:
    """The pairs of one kind."""
    chosen = [at for at, kind in enumerate(kinds) if kind == name]
    return [rows[at] for at in chosen], [firsts[at] for at in chosen]


def _words(ask: Ask) -> list[str]:
    """The attacker's own words, which an answer may repeat."""
    return [ask.texts[0]] if ask.texts and ask.path.startswith("/v2/") else []


def _summary(attack: Attack) -> str:
    told = ", ".join(f"{one.classifier} {one.accuracy:.1%}" for one in attack.classifiers)
    differing = ", ".join(one.name for one in attack.differing) or "no channel"
    return f"{attack.pairs} pairs, {differing} differs; {told}"


def _triton_models() -> Path:
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
        }

    return {
        "apiVersion": "catflap/v1",
        "kind": "Fleet",
        "endpoints": [{"name": "fixed", "http": f"http://127.0.0.1:{port}"}],
        "models": [model(name) for name in CONTEXT],
    }
