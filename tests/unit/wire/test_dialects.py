"""Each protocol's errors at its own paths."""

import json

import pytest

from gateway.core.errors import ModelNotFound
from gateway.wire.dialects import KSERVE, OPENAI, Dialect, dialect_of


@pytest.mark.parametrize(
    ("path", "dialect"), [("/v2", KSERVE), ("/v2/logging", KSERVE), ("/v1/models", OPENAI), ("/v20", OPENAI)]
)
def test_the_path_chooses_the_protocol(path: str, dialect: Dialect) -> None:
    assert dialect_of(path) is dialect


def test_kserves_error_is_the_sentence_with_the_rest_beside_it() -> None:
    error = ModelNotFound("No such model.", param="model", detail="for the log alone")
    assert json.loads(KSERVE.error(error)) == {
        "error": "No such model.", "type": "invalid_request_error", "param": "model", "code": "model_not_found",
    }  # fmt: skip
    assert json.loads(OPENAI.error(error)) == error.body()
