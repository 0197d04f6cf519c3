"""Shared memory that is full is told in one sentence, at the start and later, and is over when there is room again."""

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.integration.embedded_fixtures import WAIT_S, until
from tests.integration.test_embedded_full_disk import SAID_S, fill
from tests.integration.test_embedded_up import COMMAND, Up, private, refusal, up


def with_memory(size: str) -> tuple[str, ...]:
    """`catflap up` with a /dev/shm of its own, so that the machine's can be left alone."""
    mount = f"mount -t tmpfs -o size={size} tmpfs /dev/shm"
    apart = ("unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh")
    tried = subprocess.run([*apart, "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        reason = f"nothing can be mounted here ({tried.stderr.strip()}), so no memory can be filled"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return (*apart, *COMMAND)


def test_a_start_with_too_little_shared_memory_is_refused_in_one_sentence(tmp_path: Path) -> None:
    sentence = refusal(private(tmp_path), with_memory("8m"))
    assert sentence.startswith("The shared memory under /dev/shm has 8 MiB left")
    assert "--shm-size" in sentence


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_shared_memory_that_fills_up_is_said_and_serves_what_fits(tmp_path: Path) -> None:
    with up(private(tmp_path), with_memory("64m")) as running:
        running.wait_ready()
        children = running.children()
        assert running.serves()
        began = time.monotonic()
        ballast = fill(Path(f"/proc/{running.process.pid}/root/dev/shm"))
        running.heard("MiB left under /dev/shm")  # how many, while it fills up, is a matter of the moment
        assert time.monotonic() - began < SAID_S
        assert running.serves()
        assert triton_refuses(running, 4 << 20)
        ballast.unlink()
        running.heard("Shared memory: there is room again")
        until(running.serves)
        assert running.children() == children


def triton_refuses(running: Up, size: int) -> bool:
    """Whether it has no room for a prompt of so many bytes. The gateway would stop one that this model cannot read."""
    port = running.environment["CATFLAP_TRITON_PORT"]
    body = json.dumps({"text_input": "x" * size, "stream": True}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v2/models/demo/generate_stream", body, {"content-type": "application/json"}
    )
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(request, timeout=WAIT_S).close()
    with raised.value as response:
        return b"No space left on device" in response.read()
