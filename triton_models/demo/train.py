"""Makes the demo model again from a seed: corpus, tokenizer.json, weights.npz with its checksum, held_out.jsonl.

    python triton_models/demo/train.py --seed 1 --out triton_models/demo

Needs the extra `train` (PyTorch); a GPU is used where there is one. On a CPU the same seed, the same number of threads
and the same PyTorch give the same bytes.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from random import Random

import torch

sys.path.insert(0, str(Path(__file__).parent))

from training.corpus import encode, train_tokenizer, write_corpus
from training.grammar import read_grammar
from training.heldout import write_held_out
from training.learn import learn
from training.transformer import Transformer
from training.weights import Shape, write_weights

SHAPE = Shape(vocabulary=1024, width=128, layers=5, heads=4)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--steps", type=int, default=2200)
    parser.add_argument("--dialogues", type=int, default=60_000)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    began = time.monotonic()
    _be_deterministic(given.seed, given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    grammar = read_grammar()
    corpus = write_corpus(grammar, Random(f"corpus {given.seed}"), given.dialogues)
    tokenizer = train_tokenizer(corpus[:20_000])
    tokenizer.save(str(given.out / "tokenizer.json"))
    write_held_out(grammar, given.out / "held_out.jsonl")
    examples = encode(tokenizer, corpus)
    lengths = [len(example.ids) for example in examples]
    _say(f"{len(lengths)} dialogues, {sum(lengths)} tokens, {max(lengths)} in the longest")
    model = Transformer(tokenizer.get_vocab_size(), SHAPE.width, SHAPE.layers, SHAPE.heads)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    _say(f"{sum(parameter.numel() for parameter in model.parameters())} parameters")

    def told(step: int, line: str) -> None:
        _say(line)
        if step % 250 == 0:
            write_weights(model.state_dict(), SHAPE, given.out)  # a run that is broken off leaves its last words

    learn(model, examples, given.steps, Random(f"batches {given.seed}"), told)
    write_weights(model.state_dict(), SHAPE, given.out)
    _say(f"{(time.monotonic() - began) / 60:.0f} minutes")


def _be_deterministic(seed: int, threads: int) -> None:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it CUDA's matrix products may differ
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
