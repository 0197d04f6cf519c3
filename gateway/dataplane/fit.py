"""A touched prompt that the model takes: with sentences that fill whole blocks of its prefix cache, and within its
context beside the answer that was granted."""

import asyncio
import os
from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import msgspec

from gateway.core.decision import Edit
from gateway.core.errors import InvalidRequest
from gateway.core.prompt import Message, Prompt
from gateway.dataplane.measure import Measured
from gateway.fleet.models import ServedModel
from gateway.policy.disguise import cut, excess, pieces_of, with_piece, worth_cutting
from gateway.policy.rewrite import rewrite

FILLERS = ("\n", " .", " -")
"""What may stand behind the sentences until they fill whole blocks; one of them is a token in about any tokenizer."""
ROUNDS = 14
"""Each of them leaves out twice as much as the one before: no text is so odd that it does not fit then."""
LEAST_OUTPUT = 16
"""Tokens of output for which words are left out in any case."""
REMEMBERED = 4096
SPARE = 8
"""Tokens kept free where the sum of two counts stands for the count of the whole."""


class Work(msgspec.Struct, frozen=True):
    """What is sent to a model: texts, and the most output tokens of each choice of each."""

    model: ServedModel
    texts: tuple[str, ...]
    max_tokens: tuple[int, ...]

    @classmethod
    def of(cls, model: ServedModel, texts: tuple[str, ...], max_tokens: int) -> "Work":
        """With one cap for all."""
        return cls(model, texts, (max_tokens,) * len(texts))


class Fitted(msgspec.Struct, frozen=True):
    """A prompt as it is sent. `touched`: makes the whole of it, which only evidence needs. `added`: tokens that stand
    before the client's own; None: not all that was added does. `apart`: it is a message of its own, so that no token
    of the client's is another one for it."""

    touched: Callable[[], Prompt]
    work: Work
    added: int | None
    apart: bool


class Touch(msgspec.Struct, frozen=True):
    """What makes a touched prompt of a prompt: the edits and the sentence behind them, for a model that answers with at
    most `most` tokens, no more than it ever does. `measured`: what the untouched one was counted or bounded as."""

    model: ServedModel
    edits: tuple[Edit, ...]
    sentence: str | None
    most: int
    measured: Measured


async def fitted(prompt: Prompt, texts: tuple[str, ...], touch: Touch) -> Fitted:
    """The touched form of a prompt with these texts. Raises InvalidRequest where the model's template does not take the
    messages, or they cannot be made to fit."""
    found = fitted_at_once(prompt, texts, touch)
    if found is not None:
        return found
    heading = _heading(prompt, touch)
    trim = _Trim(prompt, touch.model, touch.edits, heading.last)
    caps = await trim.fit(touch.most)
    return Fitted(trim.prompt, Work(touch.model, trim.texts, caps), heading.added, apart=False)


def fitted_at_once(prompt: Prompt, texts: tuple[str, ...], touch: Touch) -> Fitted | None:
    """The same where it certainly fits as it is, which most do; else None. Raises InvalidRequest."""
    model, heading, most = touch.model, _heading(prompt, touch), touch.most
    rewritten = partial(rewrite, prompt, touch.edits, heading.last, system_role=model.system_role)
    touched = _inserted(texts, heading.insert) or model.render(rewritten())
    if not (_certainly_fits(texts, touched, touch, heading, most) or model.fits(touched, most)):
        return None
    return Fitted(rewritten, Work.of(model, touched, most), heading.added, heading.apart)


def _heading(prompt: Prompt, touch: Touch) -> "Heading":
    return headed(touch.model, _kind_of(prompt), touch.edits, touch.sentence)


def _certainly_fits(
    texts: tuple[str, ...], touched: tuple[str, ...], touch: Touch, heading: "Heading", most: int
) -> bool:
    """By what the untouched texts were counted or bounded as: they need no second look."""
    counts = touch.measured.counts
    if heading.replaces or len(counts) != len(touched):
        return False
    more = _bytes_added(texts, touched) if heading.added is None else heading.added
    return max(counts) + more + SPARE + most <= touch.model.entry.context_tokens


class _Trim:
    """A prompt on its way into a context that is too small for all of it. `texts`: as they were touched last."""

    def __init__(self, prompt: Prompt, model: ServedModel, edits: tuple[Edit, ...], head: str | None) -> None:
        self._prompt, self._model, self._edits, self._head = prompt, model, edits, head
        self.texts: tuple[str, ...] = ()

    def prompt(self) -> Prompt:
        """With all that is added."""
        return rewrite(self._prompt, self._edits, self._head, system_role=self._model.system_role)

    def touch(self) -> tuple[str, ...]:
        """Its texts. Raises InvalidRequest."""
        self.texts = self._model.render(self.prompt())
        return self.texts

    async def fit(self, most: int) -> tuple[int, ...]:
        """The caps with which it fits: `most` where leaving out some of the client's own words makes room for that,
        else lower ones. Raises InvalidRequest."""
        context = self._model.entry.context_tokens
        counts = await self._count(self.touch())
        wanted = most if await self._worth_cutting([excess(context, n, most) for n in counts]) else LEAST_OUTPUT
        for turn in range(ROUNDS):
            over = [excess(context, tokens, min(wanted, most)) for tokens in counts]
            if not any(over):
                break
            await self._shorten(over, 1 << turn)
            counts = await self._count(self.touch())
        caps = tuple(most - excess(context, tokens, most) for tokens in counts)
        if min(caps) < 1:
            raise InvalidRequest("The prompt cannot be made to fit.")
        return caps

    async def _worth_cutting(self, over: Sequence[int]) -> bool:
        """Whether the client's own words are many enough that so many of them may go."""
        own = await self._count(pieces_of(self._prompt))
        each = own if self._prompt.texts else [sum(own)]
        return all(worth_cutting(too_many, tokens) for too_many, tokens in zip(over, each, strict=True))

    async def _shorten(self, over: Sequence[int], times: int) -> None:
        """Leave out so many tokens of each text, and `times` as many characters; of a chat, of its longest messages."""
        pieces = pieces_of(self._prompt)
        counts = await self._count(pieces)
        if self._prompt.texts:
            for at, too_many in enumerate(over):
                if too_many:
                    self._leave_out(at, pieces[at], too_many, counts[at], times)
            return
        left = over[0] * times
        for at in sorted(range(len(pieces)), key=lambda at: -counts[at]):
            if left > 0:
                self._leave_out(at, pieces[at], min(left, counts[at]), counts[at], 1)
                left -= counts[at]

    def _leave_out(self, at: int, text: str, tokens: int, of: int, times: int) -> None:
        self._prompt = with_piece(self._prompt, at, cut(text, tokens, of, times))

    async def _count(self, texts: Sequence[str]) -> list[int]:
        return await self._model.count_each(texts, asyncio.to_thread)


def _bytes_added(before: Sequence[str], after: Sequence[str]) -> int:
    """At most so many tokens were added to any text."""
    return max(_size(new) - _size(old) for old, new in zip(before, after, strict=True))


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


# -- whole blocks


def _heads(edits: tuple[Edit, ...], sentence: str | None) -> bool:
    """Whether something stands before all that the client wrote, and nothing is put anywhere else."""
    places = {edit.place for edit in edits}
    return bool(sentence or places) and places <= {"prepend_system"}


_ASKED = Message("user", "?")
TEXT, CHAT, SYSTEM_CHAT = range(3)
PLAINEST = (
    Prompt(endpoint="completions", model="", texts=("?",)),
    Prompt(endpoint="chat", model="", messages=(_ASKED,)),
    Prompt(endpoint="chat", model="", messages=(Message("system", "?"), _ASKED)),
)
"""By kind, the plainest prompt to which the same is added as to all others of it."""


def _kind_of(prompt: Prompt) -> int:
    if prompt.endpoint != "chat":
        return TEXT
    return SYSTEM_CHAT if prompt.messages and prompt.messages[0].role == "system" else CHAT


class Heading(msgspec.Struct, frozen=True, gc=False):
    """What stands before a client's words. `last`: its last sentence, filled up. `added`: tokens of all of it; None
    where something is put elsewhere, too. `insert`: where in a rendered text it stands, and as what; None where a
    template has more than one way. `apart`: it is a message of its own. `replaces`: some of the client's words may
    go."""

    last: str | None
    added: int | None
    insert: tuple[int, str] | None
    apart: bool
    replaces: bool = False


@lru_cache(REMEMBERED)
def headed(model: ServedModel, kind: int, edits: tuple[Edit, ...], sentence: str | None) -> Heading:
    """For prompts of one kind: the last sentence with as much behind it that what is added fills whole blocks of the
    prefix cache: then what is told of the cache is exact, and no more is read than without it."""
    apart = kind == CHAT and model.system_role
    if not _heads(edits, sentence):
        return Heading(sentence, None, None, apart, any(edit.place == "replace" for edit in edits))
    plain = PLAINEST[kind]
    last, added = _filled(model, plain, edits, sentence)

    def touch(prompt: Prompt) -> tuple[str, str]:
        touched = rewrite(prompt, edits, last, system_role=model.system_role)
        return model.render(prompt)[0], model.render(touched)[0]

    before, after = touch(plain)
    at = len(os.path.commonprefix((before, after)))  # noqa: RUF071 - of characters, as it is
    insert = after[at : at + len(after) - len(before)]
    same = all(_inserted((old,), (at, insert)) == (new,) for old, new in map(touch, _alike(plain)))
    return Heading(last, added, (at, insert) if same else None, apart)


def _filled(model: ServedModel, plain: Prompt, edits: tuple[Edit, ...], sentence: str | None) -> tuple[str | None, int]:
    block = model.entry.cache_block_tokens
    count = model.counter.count_now
    before = count(model.render(plain)[0])
    best: tuple[str | None, int] = sentence, 0
    for filler in FILLERS:
        for times in range(2 * block):
            last = (sentence or "") + filler * times or None
            added = count(model.render(rewrite(plain, edits, last, system_role=model.system_role))[0]) - before
            if added % block == 0:
                return last, added
            if not best[1]:
                best = last, added
    return best


def _alike(plain: Prompt) -> list[Prompt]:
    """Prompts to which the same is added in the same place, if the template treats them as the plainest."""
    if plain.endpoint != "chat":
        return [plain]
    turns = (Message("user", "One."), Message("assistant", "Two?"), Message("user", "Three\n\nand four."))
    first = plain.messages[:1] if len(plain.messages) > 1 else ()
    return [
        Prompt(endpoint="chat", model="", messages=(*(Message(one.role, "Words of it.") for one in first), *rest))
        for rest in (turns, turns[:1], turns[1:], (turns[0], Message("system", "Five"), turns[2]))
    ]


def _inserted(texts: tuple[str, ...], insert: tuple[int, str] | None) -> tuple[str, ...] | None:
    """The texts with that in its place; None where it may be there already."""
    if insert is None:
        return None
    at, words = insert
    for text in texts:
        if text.startswith(words, at):
            return None
    return tuple([text[:at] + words + text[at:] for text in texts])
