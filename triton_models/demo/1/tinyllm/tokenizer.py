"""The model's vocabulary: text to token ids, and each id back to the bytes that it stands for."""

from pathlib import Path

from tokenizers import Tokenizer

END = "<|end|>"


class Vocabulary:
    """A byte-level BPE in the format of Hugging Face's tokenizers."""

    def __init__(self, path: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(path))
        end = self._tokenizer.token_to_id(END)
        if end is None:
            raise ValueError(f"{path.name} has no token {END}")
        self.end: int = end
        self.size: int = self._tokenizer.get_vocab_size()
        special = {i for i, token in self._tokenizer.get_added_tokens_decoder().items() if token.special}
        self._bytes = [self._read(token, special) for token in range(self.size)]
        self.longest: int = max(len(data or self.name(token).encode()) for token, data in enumerate(self._bytes))
        """Most bytes of text that one token stands for. Nothing of a text is dropped, so it has at least as many tokens
        as its bytes divided by this."""

    def encode(self, text: str) -> list[int]:
        """Token ids. Special tokens in the text are taken as such: the text is a rendered chat template."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def token_bytes(self, token: int) -> bytes:
        """What a token writes; a special token writes nothing."""
        return self._bytes[token]

    def name(self, token: int) -> str:
        """How a token is told in log probabilities."""
        written = self._bytes[token]
        return written.decode(errors="replace") if written else str(self._tokenizer.id_to_token(token))

    def _read(self, token: int, special: set[int]) -> bytes:
        written = self._tokenizer.id_to_token(token)
        return b"" if token in special or written is None else bytes(_BYTES[character] for character in written)


def _byte_characters() -> dict[str, int]:
    """GPT-2's table: printable bytes stand for themselves, the others for characters from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTES = _byte_characters()
