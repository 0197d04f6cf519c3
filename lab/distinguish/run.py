"""One house, one attack, one attack on two clean keys, and one on every known leak; what each of them found."""

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from lab.distinguish.attack import Attack, Attacker, Control, schedule
from lab.distinguish.classify import Judged
from lab.distinguish.kinds import BAD
from lab.distinguish.leaks import LEAKS
from lab.distinguish.place import Place
from lab.distinguish.proof import Proof, prove
from lab.distinguish.upstream import Rates

Say = Callable[[str], None]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run."""

    attack: Attack
    proof: Proof
    null: Attack
    controls: list[Control]
    shared: list[Judged]
    """Whether one prompt sent with both keys tells a contained pair from a clean one. It does while principals share a
    prefix cache; no part of the verdict."""
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
            shared = await attacker.shared()
            return Result(attack=attack, proof=proof, null=null, controls=controls, shared=shared, refusals=len(BAD))
        finally:
            await place.stop()


def _summary(attack: Attack) -> str:
    told = ", ".join(f"{one.classifier} {one.accuracy:.1%}" for one in attack.classifiers)
    differing = ", ".join(one.name for one in attack.differing) or "no channel"
    return f"{attack.pairs} pairs, {differing} differs; {told}"
