"""How many tokens a text is to the demo model: asked of its tokenizer."""

from functools import cache
from pathlib import Path

from tokenizers import Tokenizer

TOKENIZER = Path(__file__).parents[2] / "triton_models" / "demo" / "tokenizer.json"


def demo_tokens(text: str) -> int:
    """The number of tokens."""
    return len(_tokenizer().encode(text, add_special_tokens=False).ids)


@cache
def _tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(TOKENIZER))
