"""Measures the demo model on prompts it never saw: how many answers hold a cat's words, how many are short.

    python triton_models/demo/training/evaluate.py --seeds 4
    python triton_models/demo/training/evaluate.py --seeds 4 --of long
    python triton_models/demo/training/evaluate.py --against FOLDER

The last compares the model with the one in another folder, as train.py --out writes it: the checksums of their files,
and how often their voices follow the system prompt on the held-out prompts, with the same seeds. The exit code is 1
when these shares lie more than --points apart, with the cat sentence or without.

Runs the engine that Triton runs, with fresh seeds at temperature 1. Needs numpy and tokenizers, no PyTorch.
"""

import argparse
import json
import secrets
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

MODEL = Path(__file__).parents[1]
sys.path[:0] = [str(MODEL), str(MODEL / "1")]

from tinyllm.engine import Limits

from training.compare import POINTS, apart, checksums, shares
from training.grammar import read_grammar
from training.heldout import HeldOut, read_held_out
from training.measure import Answer, Rate, answers, load, rates
from training.outside import long_prompts, outside_prompts


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    given = _parser().parse_args(arguments)
    prompts = _held_out(given.prompts)
    if given.against is not None:
        return _compare(given, prompts)
    grammar = read_grammar()
    kinds = {"held-out": prompts, "outside": outside_prompts(grammar), "long": long_prompts(grammar)}
    asked = _repeated([one for kind in given.of for one in kinds[kind]], given.seeds)
    began = time.monotonic()
    told = _answers(given.weights, asked, given.seed)
    seconds = time.monotonic() - began
    of_each = rates(asked, told)
    for rate in of_each:
        _say(f"{rate.case:52} {rate.cat:6.1f}% cat {rate.short:6.1f}% short {rate.stopped:6.1f}% stopped")
        shown = [(one, answer) for one, answer in zip(asked, told, strict=True) if one.case == rate.case]
        for one, answer in shown[: given.show]:
            _say(f"    {json.dumps(one.messages[-1].content)}\n      -> {json.dumps(answer.text)}")
    for name, group in _groups(of_each).items():
        for share in shares(group):
            _say(f"{name}, {_told(share.wanted)}: {share.cat:.1f}% cat of {share.answers} answers")
    tokens = sum(answer.tokens for answer in told)
    _say(f"{len(told)} answers, {tokens} tokens in {seconds:.1f} s, seed {given.seed}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=MODEL, metavar="FOLDER")
    parser.add_argument("--against", type=Path, metavar="FOLDER")
    parser.add_argument("--points", type=float, default=POINTS, help="most that two models may lie apart")
    parser.add_argument("--of", nargs="+", choices=("held-out", "outside", "long"), default=["held-out", "outside"])
    parser.add_argument("--prompts", type=int, default=50, help="of each held-out case")
    parser.add_argument("--seeds", type=int, default=1, help="answers to each prompt")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 31))
    parser.add_argument("--show", type=int, default=0, help="answers of each case to print")
    return parser


def _compare(given: argparse.Namespace, prompts: Sequence[HeldOut]) -> int:
    for name, one, other in checksums(given.weights, given.against):
        _say(f"{name}: {'the same bytes' if one == other else 'other bytes'}\n  {one}\n  {other}")
    asked = _repeated(prompts, given.seeds)
    ours, theirs = (rates(asked, _answers(folder, asked, given.seed)) for folder in (given.weights, given.against))
    for our, their in zip(shares(ours), shares(theirs), strict=True):
        _say(f"{_told(our.wanted)}: {our.cat:.1f}% and {their.cat:.1f}% cat of {our.answers} answers each")
    distance = apart(ours, theirs)
    _say(f"{distance:.1f} points apart where {given.points:.1f} are allowed, seed {given.seed}")
    return int(distance > given.points)


def _held_out(number: int) -> list[HeldOut]:
    """So many prompts of each case."""
    every = read_held_out(MODEL / "held_out.jsonl")
    cases = dict.fromkeys(one.case for one in every)
    return [one for case in cases for one in [one for one in every if one.case == case][:number]]


def _repeated(prompts: Iterable[HeldOut], times: int) -> list[HeldOut]:
    return [one for one in prompts for _ in range(times)]


def _answers(folder: Path, asked: Sequence[HeldOut], seed: int) -> list[Answer]:
    engine = load(folder, Limits(max_queue=len(asked)))
    engine.start()
    try:
        return answers(engine, asked, seed)
    finally:
        engine.stop()


def _groups(of_each: Sequence[Rate]) -> dict[str, list[Rate]]:
    """The cases under the part of their name before the colon; the held-out ones have none."""
    groups: dict[str, list[Rate]] = {}
    for rate in of_each:
        before, colon, _ = rate.case.partition(":")
        groups.setdefault(before if colon else "held-out", []).append(rate)
    return groups


def _told(wanted: bool) -> str:
    return f"{'with' if wanted else 'without'} the cat sentence"


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
