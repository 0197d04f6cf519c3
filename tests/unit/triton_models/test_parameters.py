"""The sampling parameters that the demo model takes and refuses."""

import json
from typing import Any

import pytest
from tinyllm.parameters import BadRequest, Parameters, parse_parameters


@pytest.mark.parametrize("text", [None, "", "{}"])
def test_nothing_given_means_vllms_defaults(text: str | None) -> None:
    assert parse_parameters(text) == Parameters(max_tokens=16, temperature=1.0, top_p=1.0, n=1)


def test_every_parameter_is_taken_over() -> None:
    given: dict[str, Any] = {
        "max_tokens": 5,
        "min_tokens": 2,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "seed": 7,
        "stop": ["a", "b"],
        "n": 3,
        "presence_penalty": -1,
        "frequency_penalty": 2,
        "logprobs": 4,
        "ignore_eos": True,
    }
    assert parse_parameters(json.dumps(given)) == Parameters(**{**given, "stop": ("a", "b")})


def test_one_stop_string_may_stand_without_a_list() -> None:
    assert parse_parameters('{"stop": "x"}').stop == ("x",)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "JSON"),
        ("[" * 100_000, "JSON"),
        ("[]", "object"),
        ('{"max_tokns": 3}', "max_tokns"),
        ('{"max_tokens": 0}', "max_tokens"),
        ('{"max_tokens": true}', "max_tokens"),
        ('{"max_tokens": 1.5}', "max_tokens"),
        ('{"temperature": -1}', "temperature"),
        ('{"temperature": NaN}', "temperature"),
        ('{"temperature": "1"}', "temperature"),
        ('{"top_p": 0}', "top_p"),
        ('{"top_p": 1.1}', "top_p"),
        ('{"n": 0}', "n must"),
        ('{"n": 2, "temperature": 0}', "greedy"),
        ('{"stop": [""]}', "stop"),
        ('{"stop": 3}', "stop"),
        ('{"presence_penalty": 3}', "presence_penalty"),
        ('{"logprobs": 21}', "logprobs"),
        ('{"min_tokens": 9, "max_tokens": 8}', "min_tokens"),
        ('{"ignore_eos": 1}', "ignore_eos"),
    ],
)
def test_what_is_unknown_or_out_of_range_is_refused_by_name(text: str, named: str) -> None:
    with pytest.raises(BadRequest, match=named):
        parse_parameters(text)
