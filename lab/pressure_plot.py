"""Draws what lab.pressure measured. Needs matplotlib (the extra `train`).

python -m lab.pressure_plot samples.json docs/kv-pressure.png
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot


def draw(pressure: dict[str, Any], path: Path) -> None:
    """Three rows over the same seconds: KV cache, requests, counters."""
    samples = pressure["samples"]
    seconds = [sample["s"] for sample in samples]
    figure, rows = pyplot.subplots(3, 1, sharex=True, figsize=(9, 7.5), layout="constrained")

    def line(row: int, metric: str, label: str, colour: str, scale: float = 1) -> None:
        values = [sample[metric] * scale for sample in samples]
        rows[row].plot(seconds, values, label=label, color=colour, drawstyle="steps-post")

    line(0, "vllm:kv_cache_usage_perc", "KV blocks held (%)", "tab:red", 100)
    line(1, "vllm:num_requests_waiting", "waiting", "tab:orange")
    line(1, "vllm:num_requests_running", "running", "tab:blue")
    done = sorted(one["ended_s"] for one in pressure["ended"])
    rows[1].plot(done, range(1, len(done) + 1), label="finished", color="tab:green", drawstyle="steps-post")
    line(2, "vllm:num_preemptions_total", "preemptions", "tab:purple")
    generated = rows[2].twinx()
    values = [sample["vllm:generation_tokens_total"] for sample in samples]
    generated.plot(seconds, values, label="generated tokens (right)", color="tab:gray")
    generated.legend(loc="lower right")
    for row in rows:
        row.grid(alpha=0.3)
        row.set_ylim(bottom=0)
        row.legend(loc="lower right" if row is rows[0] else "center left")
    rows[0].set_title(f"{len(done)} long prompts on a small KV budget: the demo model on Triton")
    rows[2].set_xlabel("seconds")
    figure.savefig(path, dpi=110)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", type=Path, help="what lab.pressure wrote")
    parser.add_argument("picture", type=Path)
    given = parser.parse_args()
    draw(json.loads(given.samples.read_text()), given.picture)


if __name__ == "__main__":
    main()
