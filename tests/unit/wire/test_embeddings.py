"""OpenAI's embeddings on the wire. (What clients see is in tests/e2e/test_tritonclient.py.)"""

import base64
import json
import struct
from typing import Any

import pytest

from gateway.core.delta import Usage
from gateway.core.errors import InvalidRequest, UnsupportedParameter
from gateway.core.prompt import Prompt
from gateway.wire.embeddings import MAX_TEXTS, decode_embedding, embedding_answer, embedding_prompt

ROWS = [struct.pack("<2f", 1, -0.5), struct.pack("<2f", 0, 2)]


def read(**fields: Any) -> Prompt:
    return embedding_prompt(decode_embedding(json.dumps({"model": "e", "input": "hi", **fields}).encode()), 2)


def test_one_text_and_a_list_of_texts_are_texts() -> None:
    assert read(user="u") == Prompt(endpoint="embeddings", model="e", texts=("hi",), end_user="u")
    assert read(input=["a", "b"], dimensions=2, encoding_format="float").texts == ("a", "b")


@pytest.mark.parametrize("fields", [{"input": [1]}, {"input": [[1], [2]]}, {"dimensions": 3}, {"truncate": True}])
def test_what_is_not_done_is_refused_by_name(fields: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        read(**fields)
    assert refused.value.param == next(iter(fields))


@pytest.mark.parametrize(
    "fields",
    [{"input": ""}, {"input": []}, {"input": ["a", None]}, {"input": ["a"] * (MAX_TEXTS + 1)}, {"input": None}],
)
def test_what_cannot_be_is_refused_with_its_place(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read(**fields)
    assert str(refused.value.param).startswith("input")


def test_vectors_are_written_as_numbers_or_in_base64() -> None:
    plain = json.loads(embedding_answer("e", ROWS, Usage(7), base64=False))
    assert plain == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [1.0, -0.5]},
            {"object": "embedding", "index": 1, "embedding": [0.0, 2.0]},
        ],
        "model": "e",
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }
    packed = json.loads(embedding_answer("e", ROWS, Usage(7), base64=True))
    assert [base64.b64decode(one["embedding"]) for one in packed["data"]] == ROWS
