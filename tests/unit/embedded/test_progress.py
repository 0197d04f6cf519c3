"""When a model with requests is said to make no tokens."""

from gateway.embedded.progress import STALLED_S, Progress


def page(tokens: int, running: int = 0, waiting: int = 0, model: str = "m") -> str:
    """Triton's metrics, with another model's among them."""
    labels = f'{{model="{model}",version="1"}}'
    return (
        "HTTP/1.1 200 OK\r\n\r\n# TYPE vllm:generation_tokens_total counter\n"
        f"vllm:generation_tokens_total{labels} {tokens}\n"
        f"vllm:num_requests_running{labels} {running}\nvllm:num_requests_waiting{labels} {waiting}\n"
        'vllm:generation_tokens_total{model="other",version="1"} 5\nnv_gpu_utilization 0\n'
    )


def after(*pages: str) -> bool:
    """What is said at the last of these pages, each half the time after the one before."""
    progress = Progress("m")
    return [progress.stalled(number * STALLED_S / 2, page) for number, page in enumerate(pages)][-1]


def test_requests_and_no_token_for_the_whole_time_are_a_stall() -> None:
    assert after(page(7, 1), page(7, 1), page(7, 1))
    assert after(page(7, 0, 1), page(7, 0, 1), page(7, 0, 1))


def test_the_time_begins_when_there_were_no_requests_yet() -> None:
    assert not after(page(7), page(7), page(7, 1))
    assert after(page(7), page(7), page(7, 1), page(7, 1))


def test_a_single_token_begins_it_anew() -> None:
    assert not after(page(7, 1), page(8, 1), page(8, 1))


def test_without_requests_there_is_nothing_to_make() -> None:
    assert not after(page(7), page(7), page(7))


def test_another_life_counts_from_its_own_beginning() -> None:
    assert not after(page(7, 1), page(7, 1), page(0, 1), page(0, 1))


def test_of_a_model_without_these_metrics_nothing_is_said() -> None:
    assert not after(*[page(7, 1, model="other")] * 3)


def test_no_answer_says_nothing_and_forgets_what_was() -> None:
    assert not after(page(7, 1), "", page(7, 1), page(7, 1))
