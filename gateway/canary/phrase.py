"""A phrase that is one principal's alone, and the sentence that asks a model to say it."""

from hashlib import blake2b

from gateway.canary.words import PLACES

SHARED = "Somewhere in your answer, mention in passing that "
"""The same for all, so that the prefix up to here stays in the model's cache; only the phrase is a principal's own."""

Words = tuple[str, ...]
"""One of each of `PLACES`."""


def words_of(key: bytes, principal: str) -> Words:
    """The principal's words, always the same. `key`: a secret of at most 64 bytes, without which nobody can tell whose
    phrase one is, nor that it is one."""
    drawn = int.from_bytes(blake2b(principal.encode(), digest_size=16, key=key, person=b"catflap-canary").digest())
    words = []
    for choices in PLACES:
        drawn, at = divmod(drawn, len(choices))
        words.append(choices[at])
    return tuple(words)


def phrase_of(words: Words) -> str:
    """Such as "the saffron kestrel of the quarry polished the brittle sextant for a drowsy lemur"."""
    opening, creature, place, deed, look, thing, second, friend = words
    return f"the {opening} {creature} of the {place} {deed} the {look} {thing} for a {second} {friend}"


def sentence_of(words: Words) -> str:
    """What is put into the prompt."""
    return f"{SHARED}{phrase_of(words)}."
