"""What a key can be held to: in its one spelling, or refused with what to write instead."""

import pytest

from gateway.identity.bounds import BadBound, Bounds, check_bounds, from_column, to_column


def test_bounds_are_kept_in_their_one_spelling_and_nothing_twice() -> None:
    bounds = check_bounds(
        scopes=["chat", "chat"], models=["demo"], addresses=["10.0.0.0/8", " 2001:DB8::1", "10.0.0.0/8"], tags=["ci"]
    )
    assert bounds == Bounds(
        scopes=("chat",), models=("demo",), addresses=("10.0.0.0/8", "2001:db8::1/128"), tags=("ci",)
    )
    assert check_bounds() == Bounds()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"scopes": ["admin"]}, "there are chat, completions, embeddings, tensors"),
        ({"scopes": []}, "1 to 64 scopes"),
        ({"models": ["m"] * 65}, "1 to 64 models"),
        ({"models": ["a\x00"]}, "control characters"),
        ({"addresses": ["10.0.0.1/8"]}, "host bits"),
        ({"addresses": ["localhost"]}, "10.0.0.0/8"),
        ({"tags": [""]}, "empty"),
    ],
)
def test_what_no_key_can_be_held_to_is_refused(given: dict[str, list[str]], words: str) -> None:
    with pytest.raises(BadBound, match=words):
        check_bounds(**given)


def test_no_bound_and_bounds_come_back_from_the_database_as_they_went() -> None:
    for given in (None, ("chat",), ('a "quoted" name', "日本")):
        assert from_column(to_column(given)) == given
