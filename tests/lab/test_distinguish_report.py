"""What the distinguisher prints, and how it ends."""

import json

import pytest
from typer.testing import CliRunner

from gateway.commands import lab as command
from lab.bench.errors import BenchError
from lab.distinguish import run as distinguish
from lab.distinguish.attack import Attack, Control
from lab.distinguish.channels import Channel, Difference
from lab.distinguish.classify import Judged
from lab.distinguish.proof import Proof
from lab.distinguish.run import Result

FIRST = Difference(pair=3, kind="no JSON", clean="…one", contained="…two")
ALIKE = Channel(name="usage", compared=5, differing=0, kinds=(), first=None)
OTHER = Channel(name="usage", compared=5, differing=1, kinds=("no JSON",), first=FIRST)


def attack(channel: Channel = ALIKE, right: int = 500) -> Attack:
    classifiers = [Judged(classifier=name, pairs=1000, right=right) for name in ("a line", "a tree")]
    shifts = {"first token": (0.01, 0.02)}
    return Attack(pairs=5, timed=5, channels=[channel], classifiers=classifiers, shifts=shifts, by_kind=shifts)


def result(one: Attack, *, null: Attack | None = None, found: bool = True, touched: int = 5) -> Result:
    proof = Proof(clean={"/chat": 5}, clean_touched={}, contained={"/chat": 5}, contained_touched={"/chat": touched})
    return Result(
        attack=one,
        proof=proof,
        null=null or attack(),
        controls=[Control(leak="a word", channel="errors", pairs=5, found=found)],
        shared=[Judged(classifier="a line", pairs=10, right=9)],
        refusals=30,
    )


CASES = [
    (result(attack()), 0, "Nothing tells them apart"),
    (result(attack(OTHER)), 1, "A clean and a contained key: usage differs in 1 of 5 pairs."),
    (result(attack(), null=attack(OTHER)), 1, "Two clean keys: usage differs in 1 of 5 pairs."),
    (result(attack(right=551)), 1, "a line is right on 55.1% of 1000 pairs that it had not seen."),
    (result(attack(right=550)), 0, "no classifier is above 55%"),
    (result(attack(), found=False), 1, "The leak was not found: a word."),
    (result(attack(), touched=4), 1, "1 of 5 prompts of the contained key were not rewritten."),
]


@pytest.mark.parametrize(("one", "code", "says"), CASES)
def test_a_difference_a_blind_attacker_and_a_run_without_proof_end_with_1(
    monkeypatch: pytest.MonkeyPatch, one: Result, code: int, says: str
) -> None:
    monkeypatch.setattr(distinguish, "run", lambda **_options: one)
    said = CliRunner().invoke(command.app, ["distinguish"])
    assert (said.exit_code, says in said.stdout) == (code, True), said.stdout
    printed = json.loads(CliRunner().invoke(command.app, ["distinguish", "--json"]).stdout)
    assert bool(printed["problems"]) == bool(code)


def test_the_first_difference_of_a_channel_is_printed_from_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distinguish, "run", lambda **_options: result(attack(OTHER)))
    said = CliRunner().invoke(command.app, ["distinguish"]).stdout
    assert "first in pair 3, no JSON" in said and "`…one`" in said and "`…two`" in said


def test_quick_asks_fewer_pairs_and_never_more_than_it_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def run(**options: int) -> Result:
        asked.append(options["pairs"])
        return result(attack())

    monkeypatch.setattr(distinguish, "run", run)
    for words in ([], ["--quick"], ["--quick", "--pairs", "50"]):
        CliRunner().invoke(command.app, ["distinguish", *words])
    assert asked == [2000, 400, 50]


def test_what_stops_the_run_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_options: object) -> None:
        raise BenchError("No cat is here.")

    monkeypatch.setattr(distinguish, "run", fail)
    said = CliRunner().invoke(command.app, ["distinguish"])
    assert (said.exit_code, said.stderr) == (1, "No cat is here.\n")
