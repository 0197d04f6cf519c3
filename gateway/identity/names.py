"""What people may call their organisations, projects, principals and keys."""

import unicodedata

MAX_LENGTH = 128


class BadName(ValueError):
    """A name that is empty, too long, or would not show as what it is."""


def check_name(what: str, name: str) -> str:
    """`name` in its composed form. Raises BadName.

    Control and format characters are refused: two names that look alike on a screen must be one name.
    """
    if any(unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"} for character in name):
        raise BadName(f"the {what} must not contain control characters")
    composed = unicodedata.normalize("NFC", name)
    if not composed.strip() or composed != composed.strip():
        raise BadName(f"the {what} must not be empty, nor begin or end with a space")
    if len(composed) > MAX_LENGTH:
        raise BadName(f"the {what} must not be longer than {MAX_LENGTH} characters")
    return composed
