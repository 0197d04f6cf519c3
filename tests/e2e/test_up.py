"""`catflap up` as its user sees it (how it ends, and what it refuses: tests/integration/test_embedded_up.py)."""

import stat

from tests.support.stack import Stack


def test_it_is_soon_ready(stack: Stack) -> None:
    """Ten seconds on a quiet machine (`-s` prints them); one that is busy with other tests gets thirty."""
    print(f"ready after {stack.ready_s:.1f} s")
    assert stack.ready_s < 30


def test_the_development_key_is_kept_in_a_private_file(stack: Stack) -> None:
    path = stack.data_dir / "dev-key"
    assert path.read_text().strip() == stack.key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_redis_listens_on_its_socket_alone_and_keeps_its_log(stack: Stack) -> None:
    assert stack.redis_cli("config", "get", "port").split() == ["port", "0"]
    assert stack.redis_cli("config", "get", "appendonly").split() == ["appendonly", "yes"]
