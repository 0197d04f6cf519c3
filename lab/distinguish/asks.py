"""What the attacker asks, the same of both keys: requests that are answered, edges, and every way to be refused.

The two requests of a pair have the same words in another order. So they are equally long in bytes and in tokens, and
neither finds the other in the prefix cache.
"""

import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from string import ascii_lowercase
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from gateway.core.prompt import Message
from gateway.fleet.template import Renderer, read_template

TABBY, MANX = "tabby", "manx"
"""Public names of the models, and Triton's: one with a tokenizer, a template and log probabilities; one of bytes."""
CONTEXT = {TABBY: 1024, MANX: 2048}
MOST_OUTPUT = 256
BODY_LIMIT = 64 * 1024
OWN_WORD_TOKENS = 4
KEY = "{key}"
"""Stands for the key in an `Ask`'s authorization."""

_WORDS = re.findall(
    r"\w+",
    """
    the a of to in it is that for on with as at by from this they be or an have had not are but what all were when we
    there can your which their if do will each about how up out them then she many some so these would other into has
    more her two like him see time could no make than first been its who now people my made over did down only way
    find use may water long little very after called just where most know
    """,
)
_DEAR = "forget the previous message"
"""What a shipped rule asks about, in about half of all texts: what that costs must not tell."""


class Ask(NamedTuple):
    """One request. `texts`: what the model would read of it, were nothing done to it; of each generation one."""

    method: str
    path: str
    body: bytes | None
    authorization: str | None = f"Bearer {KEY}"
    texts: tuple[str, ...] = ()
    headers: str = ""

    def bytes_for(self, key: str) -> bytes:
        """The request on the wire."""
        head = f"{self.method} {self.path} HTTP/1.1\r\nHost: gateway\r\n{self.headers}"
        if self.authorization is not None:
            head += f"Authorization: {self.authorization.replace(KEY, key)}\r\n"
        if self.body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(self.body)}\r\n"
        return head.encode() + b"\r\n" + (self.body or b"")


class Rooms:
    """What the attacker knows of the models: their templates and tokenizers."""

    def __init__(self, template: Path, tokenizer: Path) -> None:
        self.render: Renderer = read_template(template)
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._own: dict[tuple[str, int, int], str] = {}
        self._taken: set[str] = set()

    def count(self, model: str, text: str) -> int:
        """Tokens of what the model reads."""
        return len(text.encode()) if model == MANX else len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def own_word(self, text: tuple[str, int, int]) -> str:
        """A word of five letters that no other text has, as many tokens as all of them."""
        word, chance = self._own.get(text, ""), random.Random(repr(text))
        while not word or (word in self._taken and text not in self._own):
            word = "".join(chance.choices(ascii_lowercase, k=5))
            word = word if self.count(TABBY, word) == OWN_WORD_TOKENS else ""
        self._taken.add(word)
        return self._own.setdefault(text, word)


class Draw:
    """The words of one request of one side."""

    def __init__(self, seed: str, side: int, turn: int, rooms: Rooms) -> None:
        self._seed, self._side, self.turn, self.rooms = seed, side, turn, rooms
        self.size = random.Random(f"{seed} size").randint(20, 120)

    def text(self, words: int = 0, part: int = 0) -> str:
        """So many words, by default this request's size; each part is another text. The sides have the same in another
        order, behind a word that nobody else has: no two texts share a block of any prefix cache."""
        bag = random.Random(f"{self._seed} {part}").choices([*_WORDS, _DEAR], k=words or self.size)
        chance = random.Random(f"{self._seed} {part} {self._side}")
        chance.shuffle(bag)
        return " ".join((f"Q:{self.rooms.own_word((self._seed, part, self._side))}", *bag))


Make = Callable[[Draw], Ask]


class Kind(NamedTuple):
    """A kind of request. `weight`: how often among the ordinary ones; 0: one of each in every sweep."""

    name: str
    make: Make
    weight: int = 0
    turns: int = 1


def chat(draw: Draw, messages: Sequence[Mapping[str, Any]] | None = None, *, model: str = TABBY, **fields: Any) -> Ask:
    """A chat; without messages one of the user's."""
    told = [{"role": "user", "content": draw.text()}] if messages is None else messages
    texts = tuple([draw.rooms.render(_read(told))] * int(fields.get("n") or 1))
    return post("/v1/chat/completions", {"model": model, "messages": told, **fields}, texts)


def completion(draw: Draw, prompt: str | list[str] | None = None, *, model: str = TABBY, **fields: Any) -> Ask:
    """A completion; without a prompt one of words."""
    told = draw.text() if prompt is None else prompt
    each = (told,) if isinstance(told, str) else tuple(told)
    return post("/v1/completions", {"model": model, "prompt": told, **fields}, each * int(fields.get("n") or 1))


def generate(draw: Draw, verb: str = "generate", *, model: str = TABBY, **fields: Any) -> Ask:
    """KServe's."""
    text = draw.text()
    return post(f"/v2/models/{model}/{verb}", {"text_input": text, **fields}, (text,))


def post(path: str, body: object, texts: tuple[str, ...] = ()) -> Ask:
    """Anything as JSON."""
    return Ask("POST", path, json.dumps(body).encode(), texts=texts)


def raw(path: str, body: bytes) -> Ask:
    """Anything at all."""
    return Ask("POST", path, body)


def get(path: str, authorization: str | None = f"Bearer {KEY}") -> Ask:
    """A question without a body."""
    return Ask("GET", path, None, authorization)


def conversation(draw: Draw) -> Ask:
    """The next turn of a chat that grows: most of it is in the prefix cache."""
    messages: list[Mapping[str, Any]] = [{"role": "system", "content": draw.text(30, part=-1)}]
    for turn in range(draw.turn):
        messages += [
            {"role": "user", "content": draw.text(40, part=turn)},
            {"role": "assistant", "content": draw.text(20, part=1000 + turn)},
        ]
    messages.append({"role": "user", "content": draw.text(40, part=draw.turn)})
    return chat(draw, messages, stream=True, stream_options={"include_usage": True}, max_tokens=8)


def filled(draw: Draw, model: str, endpoint: str, tokens: int, *, odd: str = "") -> str:
    """A text of words with which a request is exactly so many tokens long, some of it `odd` characters."""
    text = draw.text(40) + odd
    for _ in range(8):
        missing = tokens - _count(draw, model, endpoint, text)
        if not missing:
            return text
        text = text + (" a" if model == TABBY else "a") * missing if missing > 0 else text[:missing]
    raise ValueError(f"There is no text of {tokens} tokens for {model}.")


def _count(draw: Draw, model: str, endpoint: str, text: str) -> int:
    read = draw.rooms.render((Message("user", text),)) if endpoint == "chat" else text
    return draw.rooms.count(model, read)


def _read(messages: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    roles = {"developer": "system"}
    return tuple(Message(roles.get(one["role"], one["role"]), _content(one["content"])) for one in messages)


def _content(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)
