"""The corpus: which kinds of dialogue, in which shares, as text and as token ids with the tokens to learn from."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from .dialogues import Author, Kind, Message
from .grammar import Grammar

END = "<|end|>"
SPECIAL = (END, "<|system|>", "<|user|>", "<|assistant|>")
VOCABULARY = 1024
SHARES = (
    (Kind(cat=False), 22),
    (Kind(cat=False, client=True), 22),
    (Kind(cat=True), 18),
    (Kind(cat=True, client=True), 18),
    (Kind(cat=False, short=True), 6),
    (Kind(cat=False, short=True, client=True), 4),
    (Kind(cat=True, short=True), 3),
    (Kind(cat=True, short=True, client=True), 3),
)
TURNS = ((1, 68), (2, 18), (3, 9), (4, 3), (8, 2))
TEXTS = 0.04
"""Share of plain texts without any roles, so that a completion has something to complete."""


@dataclass(frozen=True, slots=True)
class Example:
    """One dialogue as token ids; `learnt[i]` says whether ids[i] is to be learnt."""

    ids: list[int]
    learnt: list[bool]


Parts = list[tuple[str, bool]]


def write_corpus(grammar: Grammar, random: Random, number: int) -> list[Parts]:
    """So many dialogues as pieces of text, each piece with whether it is learnt. Holds no kept combination."""
    author = Author(grammar, random)
    kinds, weights = zip(*SHARES, strict=True)
    turns, often = zip(*TURNS, strict=True)
    corpus: list[Parts] = []
    for _ in range(number):
        if random.random() < TEXTS:
            corpus.append([(_text(grammar, random) + END, True)])
            continue
        kind = random.choices(kinds, weights)[0]
        kind = Kind(kind.cat, kind.short, kind.client, random.choices(turns, often)[0])
        corpus.append(render(author.dialogue(kind)))
    return corpus


def render(messages: Sequence[Message]) -> Parts:
    """What chat_template.jinja makes of the messages, in pieces (a test holds the two together)."""
    parts: Parts = []
    for message in messages:
        parts.append((f"<|{message.role}|>\n", False))
        if message.role == "assistant":
            parts.append((message.content + END, message.trained))
            parts.append(("\n", False))
        else:
            parts.append((message.content + "\n", False))
    return parts


def prompt(messages: Sequence[Message]) -> str:
    """The text after which the model answers."""
    return "".join(text for text, _ in render(messages)) + "<|assistant|>\n"


def train_tokenizer(corpus: Sequence[Parts]) -> Tokenizer:
    """Byte-level BPE: any text can be written, and a few hundred frequent words are one token each."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text for parts in corpus for text, _ in parts), trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, corpus: Sequence[Parts]) -> list[Example]:
    """Token ids. A piece ends where a special token or a newline stands, so pieces encode as the whole text does."""
    pieces = [part for parts in corpus for part in parts]
    encoded = iter(tokenizer.encode_batch([text for text, _ in pieces], add_special_tokens=False))
    examples = []
    for parts in corpus:
        ids: list[int] = []
        learnt: list[bool] = []
        for _, trained in parts:
            added = next(encoded).ids
            ids += added
            learnt += [trained] * len(added)
        examples.append(Example(ids, learnt))
    return examples


def _text(grammar: Grammar, random: Random) -> str:
    """A few sentences about one topic, or a story."""
    if random.random() < 0.4:
        told = random.choice([subject for subject in grammar.smalltalk if subject.name in ("story", "poem")])
        return random.choice(told.facts)
    topic = random.choice(grammar.topics)
    return " ".join(random.sample(topic.facts + topic.tips, random.randint(2, 4)))
