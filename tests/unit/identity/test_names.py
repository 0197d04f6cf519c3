"""Names of organisations, projects, principals and keys."""

import pytest

from gateway.identity.names import MAX_LENGTH, BadName, check_name


@pytest.mark.parametrize("name", ["acme", "Müller & Söhne", "日本", "a" * MAX_LENGTH, "o'neill; drop table key"])
def test_a_name_may_be_any_readable_text(name: str) -> None:
    assert check_name("name", name) == name


@pytest.mark.parametrize(
    "name",
    ["", " ", "a ", " a", "a\nb", "a\x00", "a\x1b[31m", "a\u202eb", "a\u200bb", "\ud800", "a" * (MAX_LENGTH + 1)],
)
def test_a_name_that_would_not_show_as_what_it_is_is_refused(name: str) -> None:
    with pytest.raises(BadName, match="the name must not"):
        check_name("name", name)


def test_two_spellings_of_the_same_letters_are_one_name() -> None:
    assert check_name("name", "Mu\u0308ller") == check_name("name", "M\u00fcller")
