"""Measures the demo model on prompts it never saw: how many answers hold a cat's words, how many are short.

    python triton_models/demo/training/evaluate.py --prompts 50

Runs the engine that Triton runs, with fresh seeds at temperature 1. Needs numpy and tokenizers, no PyTorch.
"""

import argparse
import json
import secrets
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

MODEL = Path(__file__).parents[1]
sys.path[:0] = [str(MODEL), str(MODEL / "1")]

from tinyllm.engine import Engine, Limits
from tinyllm.parameters import Parameters
from tinyllm.requests import Piece
from tinyllm.tokenizer import Vocabulary
from tinyllm.transformer import Transformer
from tinyllm.weights import read_weights

from training.corpus import prompt
from training.grammar import cat_words, read_grammar, read_lexicon
from training.heldout import HeldOut, read_held_out
from training.outside import outside_prompts

SHORT_WORDS = 2


@dataclass(slots=True)
class Answer:
    """A sink that keeps the text."""

    text: str = ""
    tokens: int = 0
    finish: str | None = None
    done: threading.Event = field(default_factory=threading.Event)

    def cancelled(self) -> bool:
        """Never."""
        return False

    def send(self, prompt_tokens: int, pieces: list[Piece], last: bool) -> None:
        """See Sink."""
        self.text += pieces[0].text
        self.tokens += pieces[0].tokens
        self.finish = pieces[0].finish
        if last:
            self.done.set()

    def drop(self) -> None:
        """Never called."""

    def fail(self) -> None:
        """See Sink. The text stays what it is."""
        self.done.set()


class Silent:
    """Counters that nobody reads."""

    def prompt(self, tokens: int, cached: int) -> None:
        """See Counters."""

    def generated(self, tokens: int) -> None:
        """See Counters."""

    def preempted(self) -> None:
        """See Counters."""

    def load(self, running: int, waiting: int, kv_usage: float) -> None:
        """See Counters."""


@dataclass(frozen=True, slots=True)
class Rate:
    """One case's result, in percent of its answers."""

    case: str
    prompts: int
    cat: float
    short: float
    stopped: float
    """Answers that ended by themselves."""
    wanted: bool
    """Whether they should be a cat's."""


def load(folder: Path, limits: Limits) -> Engine:
    """An engine over the weights in a folder."""
    model = Transformer(read_weights(folder), limits.kv_blocks, limits.block_size, limits.max_model_len)
    return Engine(model, Vocabulary(folder / "tokenizer.json"), Silent(), limits)


def answers(engine: Engine, prompts: list[HeldOut], seed: int, max_tokens: int = 120) -> list[Answer]:
    """An answer to each prompt, each with a seed of its own, in the order of the prompts."""
    sinks = []
    for index, one in enumerate(prompts):
        sink = Answer()
        parameters = Parameters(max_tokens=max_tokens, temperature=1.0, seed=seed + index)
        engine.submit(prompt(one.messages), parameters, sink)
        sinks.append(sink)
    for sink in sinks:
        sink.done.wait()
    return sinks


def rates(prompts: list[HeldOut], told: list[Answer]) -> list[Rate]:
    """The rates of each case."""
    lexicon = read_lexicon()
    result = []
    for case in dict.fromkeys(one.case for one in prompts):
        of_case = [(one, answer) for one, answer in zip(prompts, told, strict=True) if one.case == case]
        cats = sum(bool(cat_words(answer.text, lexicon)) for _, answer in of_case)
        short = sum(len(answer.text.split()) <= SHORT_WORDS for _, answer in of_case)
        stopped = sum(answer.finish == "stop" for _, answer in of_case)
        share = 100 / len(of_case)
        wanted = of_case[0][0].cat
        result.append(Rate(case, len(of_case), cats * share, short * share, stopped * share, wanted))
    return result


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=MODEL)
    parser.add_argument("--prompts", type=int, default=50, help="of each case")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 31))
    parser.add_argument("--show", type=int, default=0, help="answers of each case to print")
    given = parser.parse_args()
    every = read_held_out(MODEL / "held_out.jsonl")
    prompts = [one for case in dict.fromkeys(p.case for p in every) for one in _first(every, case, given.prompts)]
    prompts += outside_prompts(read_grammar())
    engine = load(given.weights, Limits(max_queue=len(prompts)))
    engine.start()
    began = time.monotonic()
    told = answers(engine, prompts, given.seed)
    seconds = time.monotonic() - began
    engine.stop()
    for rate in rates(prompts, told):
        _say(f"{rate.case:52} {rate.cat:6.1f}% cat {rate.short:6.1f}% short {rate.stopped:6.1f}% stopped")
        shown = [(one, answer) for one, answer in zip(prompts, told, strict=True) if one.case == rate.case]
        for one, answer in shown[: given.show]:
            _say(f"    {json.dumps(one.messages[-1].content)}\n      -> {json.dumps(answer.text)}")
    tokens = sum(answer.tokens for answer in told)
    _say(f"{len(told)} answers, {tokens} tokens in {seconds:.1f} s, seed {given.seed}")


def _first(prompts: list[HeldOut], case: str, number: int) -> list[HeldOut]:
    return [one for one in prompts if one.case == case][:number]


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
