"""One house for all of tests/e2e, with a demo model that takes its time, so that leaving can be observed."""

from collections.abc import Iterator

import openai
import pytest

from tests.support.stack import Stack, running_stack, slow_fleet

TOKEN_MS = 20


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("e2e")
    with running_stack(
        folder, CATFLAP_FLEET=str(slow_fleet(folder, TOKEN_MS)), CATFLAP_MAX_BODY_BYTES="65536"
    ) as running:
        yield running


@pytest.fixture
def client(stack: Stack) -> Iterator[openai.OpenAI]:
    """The unmodified OpenAI client; without retries, so that a test sees the first answer."""
    with openai.OpenAI(api_key=stack.key, base_url=f"{stack.url}/v1", max_retries=0, timeout=30) as made:
        yield made
