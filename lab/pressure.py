"""KV pressure on a running Triton: long prompts all at once, and its metrics while they queue, yield and finish.

    python -m lab.pressure --triton http://127.0.0.1:8400 --metrics http://127.0.0.1:8402/metrics --out samples.json

Speaks the vLLM tensor contract over HTTP. The demo model shows pressure when `kv_blocks` in its config.pbtxt is small.
"""

import argparse
import json
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

METRICS = (
    "vllm:kv_cache_usage_perc",
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:num_preemptions_total",
    "vllm:generation_tokens_total",
    "vllm:prompt_tokens_total",
    "vllm:prompt_tokens_cached_total",
)
EVERY_S = 0.05
TIMEOUT_S = 300


@dataclass(frozen=True, slots=True)
class Ended:
    """How one request ended."""

    text: str
    tokens: int
    prompt_tokens: int
    reason: str
    began_s: float
    """When it was sent, since the first was."""
    ended_s: float
    logprobs: list[dict[int, float]]
    """For each token the chosen one and its alternatives, where log probabilities were asked for."""


@dataclass(slots=True)
class Pressure:
    """What was asked, answered and measured."""

    ended: list[Ended]
    samples: list[dict[str, float]] = field(default_factory=list)
    """Each metric of METRICS, counters since the beginning, with `s`, the seconds since then."""


def prompts(number: int, words: int) -> list[str]:
    """Long chats with nothing in common, so that no cache spares anything."""
    topics = ("tea", "rain", "bees", "trains", "chess", "snow", "bread", "books", "the sea", "the moon")
    made = []
    for index in range(number):
        asked = " ".join(f"{topics[(index + place * 7) % 10]} {index * words + place}" for place in range(words // 2))
        made.append(f"<|user|>\nNumber {index}: tell me about {asked}\n<|assistant|>\n")
    return made


def press(triton: str, metrics: str, asked: list[str], max_tokens: int, **sampling: object) -> Pressure:
    """Send all prompts to the model `demo` at once; sample the metrics until the last has its answer.

    Each answer has `max_tokens` tokens; `sampling` are vLLM's parameters beside it and a seed for each prompt.
    """
    first = _scrape(metrics)  # before anything is asked: the first prompt may be counted at once
    began = time.monotonic()
    over = threading.Event()
    pressure = Pressure([])
    with ThreadPoolExecutor(len(asked) + 1) as pool:
        watching = pool.submit(_watch, metrics, first, began, over, pressure.samples)
        wishes = [
            {"max_tokens": max_tokens, "ignore_eos": True, "seed": 100 + i, **sampling} for i in range(len(asked))
        ]
        running = [pool.submit(_ask, triton, *one, began) for one in zip(asked, wishes, strict=True)]
        try:
            pressure.ended = [one.result() for one in running]
        finally:
            over.set()
        watching.result()
    return pressure


def _ask(triton: str, prompt: str, sampling: dict[str, object], began: float) -> Ended:
    sent = time.monotonic()
    body = {
        "text_input": prompt,
        "stream": True,
        "sampling_parameters": json.dumps(sampling),
        "return_finish_reason": True,
        "return_logprobs": True,
        "return_num_input_tokens": True,
        "return_num_output_tokens": True,
    }
    request = urllib.request.Request(f"{triton}/v2/models/demo/generate_stream", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        events: list[dict[str, Any]] = [json.loads(line[6:]) for line in response if line.startswith(b"data: ")]
    return Ended(
        "".join(event["text_output"] for event in events),
        sum(event["num_output_tokens"] for event in events),
        events[-1]["num_input_tokens"],
        events[-1]["finish_reason"],
        sent - began,
        time.monotonic() - began,
        [alternatives for event in events for alternatives in _logprobs(event["logprobs"])],
    )


def _logprobs(told: str) -> list[dict[int, float]]:
    """By token id, for each token of one response; nothing where none were asked for."""
    return [{int(token): one["logprob"] for token, one in each.items()} for each in json.loads(told) or []]


def _watch(
    metrics: str, first: dict[str, float], began: float, over: threading.Event, samples: list[dict[str, float]]
) -> None:
    while True:
        last = over.is_set()  # one sample more when all is over
        now = _scrape(metrics)
        told = {name: now[name] - (first[name] if name.endswith("_total") else 0) for name in METRICS}
        samples.append({"s": time.monotonic() - began, **told})
        if last:
            return
        over.wait(EVERY_S)


def _scrape(metrics: str) -> dict[str, float]:
    with urllib.request.urlopen(metrics, timeout=10) as response:
        lines = response.read().decode().splitlines()
    pairs = (line.rpartition(" ") for line in lines if line.startswith("vllm:"))
    return {name.partition("{")[0]: float(value) for name, _, value in pairs}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--triton", required=True)
    parser.add_argument("--metrics", required=True)
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--words", type=int, default=150)
    parser.add_argument("--max-tokens", type=int, default=120)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    pressure = press(given.triton, given.metrics, prompts(given.prompts, given.words), given.max_tokens)
    given.out.write_text(json.dumps(asdict(pressure)))
    last, lengths = pressure.samples[-1], [one.prompt_tokens for one in pressure.ended]
    print(
        f"{len(lengths)} answers to prompts of {min(lengths)} to {max(lengths)} tokens in {last['s']:.1f} s, "
        f"{last['vllm:num_preemptions_total']:.0f} preemptions"
    )


if __name__ == "__main__":
    main()
