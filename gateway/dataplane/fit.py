"""A touched prompt that the model takes: with sentences that fill whole blocks of its prefix cache, and within its
context beside the answer that was granted."""

import asyncio
import os
from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from gateway.core.decision import Edit
from gateway.core.errors import InvalidRequest
from gateway.core.prompt import Message, Prompt
from gateway.fleet.models import ServedModel
from gateway.policy.disguise import cut, excess, pieces_of, with_piece, worth_cutting
from gateway.policy.rewrite import rewrite

FILLERS = ("\n", " .", " -")
"""What may stand behind the sentences until they fill whole blocks; one of them is a token in about any tokenizer."""
ROUNDS = 14
"""Each of them leaves out twice as much as the one before: no text is so odd that it does not fit then."""
LEAST_OUTPUT = 16
"""Tokens of output for which words are left out in any case."""
MOST_CHEAP = 1 << 16
"""Characters of texts that are touched before it is known whether their request is admitted."""
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
    of the client's is another one for it. `cut`: some of the client's words were left out."""

    touched: Callable[[], Prompt]
    work: Work
    added: int | None
    apart: bool
    cut: bool = False


class Touch:
    """What makes touched prompts of untouched ones: the edits, and the sentence behind them, for a model."""

    __slots__ = ("_headings", "edits", "model", "sentence")

    def __init__(self, model: ServedModel, edits: tuple[Edit, ...], sentence: str | None) -> None:
        self.model, self.edits, self.sentence = model, edits, sentence
        self._headings: dict[int, Heading] = {}

    def heading(self, prompt: Prompt) -> "Heading":
        """What stands before the words of a prompt; found out once for those of its kind. Raises InvalidRequest."""
        kind = _kind_of(prompt)
        found = self._headings.get(kind)
        if found is None:
            found = self._headings[kind] = headed(self.model, kind, self.edits, self.sentence)
        return found

    def rewritten(self, prompt: Prompt, heading: "Heading") -> Callable[[], Prompt]:
        """Makes the whole of the touched prompt."""
        return partial(rewrite, prompt, self.edits, heading.last, system_role=self.model.system_role)


class Asked(msgspec.Struct, frozen=True, gc=False):
    """A prompt with its texts, and the most tokens that are to answer it, no more than the model ever gives. `counts`:
    tokens that the model's tokenizer makes of each text, or a bound of them; empty where nobody has looked."""

    prompt: Prompt
    texts: tuple[str, ...]
    most: int
    counts: Sequence[int] = ()


async def fitted(asked: Asked, touch: Touch) -> Fitted:
    """The touched form of a prompt. Raises InvalidRequest where the model's template does not take the messages, or
    they cannot be made to fit."""
    heading = touch.heading(asked.prompt)
    rewritten = touch.rewritten(asked.prompt, heading)
    touched = _inserted(asked.texts, heading.insert) or touch.model.render(rewritten())
    if _fits(asked, touched, touch.model, heading):
        return Fitted(rewritten, Work.of(touch.model, touched, asked.most), heading.added, heading.apart)
    trim = _Trim(asked.prompt, touch.model, touch.edits, heading.last)
    caps = await trim.fit(asked.most)
    return Fitted(trim.rewritten(), Work(touch.model, trim.texts, caps), heading.added, apart=False, cut=True)


def fitted_cheaply(asked: Asked, touch: Touch) -> Fitted | None:
    """The same where it takes next to no time, as for most prompts; else None. Raises InvalidRequest."""
    heading = touch.heading(asked.prompt)
    touched = None if sum(map(len, asked.texts)) > MOST_CHEAP else _inserted(asked.texts, heading.insert)
    if touched is None or not _fits(asked, touched, touch.model, heading):
        return None
    work = Work(touch.model, touched, (asked.most,) * len(touched))
    return Fitted(touch.rewritten(asked.prompt, heading), work, heading.added, heading.apart)


def _fits(asked: Asked, touched: tuple[str, ...], model: ServedModel, heading: "Heading") -> bool:
    """Certainly: by what the untouched texts were counted or bounded as, where that tells; else by the touched ones."""
    if asked.counts and not heading.replaces:
        more = _bytes_added(asked.texts, touched) if heading.added is None else heading.added
        if max(asked.counts) + more + SPARE + asked.most <= model.entry.context_tokens:
            return True
    return model.fits(touched, asked.most)


class _Trim:
    """A prompt on its way into a context that is too small for all of it. `texts`: as they were touched last."""

    def __init__(self, prompt: Prompt, model: ServedModel, edits: tuple[Edit, ...], head: str | None) -> None:
        self._prompt, self._model, self._edits, self._head = prompt, model, edits, head
        self.texts: tuple[str, ...] = ()

    def rewritten(self) -> Callable[[], Prompt]:
        """Makes it as it is now, with all that is added."""
        return partial(rewrite, self._prompt, self._edits, self._head, system_role=self._model.system_role)

    def touch(self) -> tuple[str, ...]:
        """Its texts. Raises InvalidRequest."""
        self.texts = self._model.render(self.rewritten()())
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
OPENINGS = ("hi", "Hi", "\n\nhi", "\r\n", " hi", "  hi", "\t", "1", "'s", "!", "\N{GRINNING FACE}")
"""What a client's words may begin with, by how tokenizers join it to what stands before."""
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


def headed(model: ServedModel, kind: int, edits: tuple[Edit, ...], sentence: str | None) -> Heading:
    """For prompts of one kind: the last sentence with as much behind it that what is added fills whole blocks of the
    prefix cache: then what is told of the cache is exact, and no more is read than without it."""
    if not _heads(edits, sentence):
        return Heading(sentence, None, None, apart=False, replaces=any(edit.place == "replace" for edit in edits))
    plain = PLAINEST[kind]
    last, added = _filled(model, plain, edits, sentence)
    before = model.render(plain)[0]
    after = model.render(rewrite(plain, edits, last, system_role=model.system_role))[0]
    at = len(os.path.commonprefix((before, after)))  # noqa: RUF071 - of characters, as it is
    insert = at, after[at : at + len(after) - len(before)]
    others = (_both(model, prompt, edits, last) for prompt in _alike(plain))
    same = all(_inserted((pair[0],), insert) == (pair[1],) for pair in others if pair is not None)
    apart = kind == CHAT and same and _adds_up(model, insert, added)
    return Heading(last, added, insert if same else None, apart)


def _both(
    model: ServedModel, prompt: Prompt, edits: tuple[Edit, ...], last: str | None
) -> tuple[str, str | None] | None:
    """A prompt's text untouched and touched (None: the template takes it untouched alone); None where the template
    takes no such prompt at all: many are particular about the order of roles."""
    try:
        before = model.render(prompt)[0]
    except InvalidRequest:
        return None
    try:
        return before, model.render(rewrite(prompt, edits, last, system_role=model.system_role))[0]
    except InvalidRequest:
        return before, None


def _adds_up(model: ServedModel, insert: tuple[int, str], added: int) -> bool:
    """Whether the tokens of what is inserted and of what follows stay apart, whatever a client's words begin with: a
    template may put them into one turn."""
    count = model.counter.count_now
    for opening in OPENINGS:
        prompt = Prompt(endpoint="chat", model="", messages=(Message("user", opening),))
        before = model.render(prompt)
        after = _inserted(before, insert)
        if after is None or count(after[0]) - count(before[0]) != added:
            return False
    return True


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
