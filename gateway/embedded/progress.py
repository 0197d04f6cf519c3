"""Whether a model that has requests makes tokens, from what Triton's metrics say of it. Pure: text and times come in.

A model's Python can answer while the engine behind it computes nothing. Models that have vLLM's metrics say how many
requests they have and how many tokens they have made; of others nothing is known here, and nothing claimed.
"""

STALLED_S = 20.0
"""A model may be silent for so long with requests in hand: it reads prompts, it swaps."""
TOKENS = "vllm:generation_tokens_total"
REQUESTS = ("vllm:num_requests_running", "vllm:num_requests_waiting")


class Progress:
    """One model, look by look."""

    def __init__(self, model: str) -> None:
        self._label = f'model="{model}"'
        self._made: float | None = None
        self._since = 0.0

    def stalled(self, now: float, metrics: str) -> bool:
        """Whether it has had requests for STALLED_S and made no token. `now` in seconds, of a clock that only goes on;
        `metrics` in Prometheus's text format, empty when there was no answer."""
        numbers = self._numbers(metrics)
        made = numbers.get(TOKENS)
        if made != self._made or not any(numbers.get(name) for name in REQUESTS):
            self._made, self._since = made, now
        return now - self._since >= STALLED_S

    def _numbers(self, metrics: str) -> dict[str, float]:
        lines = (line for line in metrics.splitlines() if line.startswith("vllm:") and self._label in line)
        return {line.partition("{")[0]: float(line.rpartition(" ")[2]) for line in lines}
