"""Measures the engine: tokens a second in all, with so many requests writing at once.

    OPENBLAS_NUM_THREADS=1 python triton_models/demo/training/speed.py --batch 16

Without Triton and HTTP: what numpy and the engine's thread can do. Prompts of about 60 tokens, answers of 200.
"""

import argparse
import sys
import time
from pathlib import Path

MODEL = Path(__file__).parents[1]
sys.path[:0] = [str(MODEL), str(MODEL / "1")]

from tinyllm.engine import Limits
from tinyllm.parameters import Parameters

from training.measure import Answer, load

ANSWER_TOKENS = 200


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4, 16, 64])
    given = parser.parse_args()
    for batch in given.batch:
        seconds = _run(batch)
        pace = batch * ANSWER_TOKENS / seconds
        sys.stdout.write(f"batch {batch:3}: {pace:7.0f} tokens/s in all, {pace / batch:6.0f} each\n")


def _run(batch: int) -> float:
    """Seconds from the first request to the last token."""
    engine = load(MODEL, Limits(max_num_seqs=batch))
    sinks = [Answer() for _ in range(batch)]
    engine.start()
    began = time.monotonic()
    for index, sink in enumerate(sinks):
        text = f"<|user|>\nNumber {index}: {'tell me about the sea, the moon and the rain ' * 5}\n<|assistant|>\n"
        engine.submit(text, Parameters(max_tokens=ANSWER_TOKENS, ignore_eos=True, seed=index), sink)
    for sink in sinks:
        sink.done.wait()
    seconds = time.monotonic() - began
    engine.stop()
    return seconds


if __name__ == "__main__":
    main()
