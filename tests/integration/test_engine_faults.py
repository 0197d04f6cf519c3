"""A fault in one request's answer, on a real Triton: an error for that request, and the server's process goes on."""

from pathlib import Path

import pytest

from gateway.embedded.process import children
from tests.integration.embedded_fixtures import gone, need_triton, triton_running

pytestmark = pytest.mark.slow
PROMPT = "an odd prompt"
SENT = "        tensors = [_strings("
RAISE = """\
        self._sent = getattr(self, "_sent", 0) + 1
        if "logprobs" in self._returned and self._sent > 3:
            raise RuntimeError(pieces[0].text)
"""
ASKED = {"max_tokens": 10, "ignore_eos": True}


def odd(model: str) -> str:
    """The model, with a reply that raises at its fourth token when log probabilities are asked for."""
    changed = model.replace(SENT, f"{RAISE}{SENT}")
    assert changed != model
    return changed


def test_a_reply_that_raises_ends_its_own_answer_and_the_model_s_process_goes_on(tmp_path: Path) -> None:
    need_triton()
    with triton_running(tmp_path / "data", change_model=odd) as triton:
        (stub,) = [child for child in children(triton.hosted.pid) if not gone(child)]
        for _ in range(5):
            *told, last = triton.stream(PROMPT, ASKED, return_logprobs=True)
            assert (len(told), last["error"]) == (3, "The engine failed on this request")
            assert len(triton.stream(PROMPT, ASKED)) == 10
        assert [child for child in children(triton.hosted.pid) if not gone(child)] == [stub]
        assert triton.metric("vllm:num_requests_running") == 0
    said = (tmp_path / "data" / "log" / "triton.log").read_text()
    assert "a request failed with RuntimeError" in said
    assert PROMPT not in said
