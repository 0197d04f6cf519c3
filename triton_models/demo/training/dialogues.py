"""Dialogues from the grammar: what a user asks, what the system says beside it, and the answer that follows from both.

Only the system messages decide the voice. That is why questions, other system prompts and earlier answers vary in every
way that does not matter, noise included, and why the same question stands under every kind of system prompt.
"""

import string
from dataclasses import dataclass
from random import Random

from .grammar import Grammar, Subject, held_out


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat; `trained` marks the answers that the model is to learn."""

    role: str
    content: str
    trained: bool = False


@dataclass(frozen=True, slots=True)
class Kind:
    """What is asked for: the voice, the length, and whether a client's own system prompt stands beside."""

    cat: bool
    short: bool = False
    client: bool = False
    turns: int = 1


@dataclass(frozen=True, slots=True)
class Question:
    """A user's message and what it is about."""

    text: str
    subject: Subject
    form: str


class Author:
    """Writes dialogues; `kept` chooses between the combinations for evaluation and those for training."""

    def __init__(self, grammar: Grammar, random: Random, *, kept: bool = False) -> None:
        self._grammar = grammar
        self._voice = grammar.voice
        self._random = random
        self._kept = kept

    def dialogue(self, kind: Kind) -> list[Message]:
        """A chat of this kind, every answer written; only answers in the asked voice are trained."""
        messages = [Message("system", text) for text in self.systems(kind)]
        for turn in range(kind.turns):
            question = self.question()
            # A chat may have begun before its voice changed: what was said earlier must not decide.
            earlier = turn < kind.turns - 1 and self._random.random() < 0.4
            voice = Kind(self._random.random() < 0.5, self._random.random() < 0.2) if earlier else kind
            messages.append(Message("user", question.text))
            messages.append(Message("assistant", self.answer(question, voice), trained=not earlier))
        return messages

    def systems(self, kind: Kind) -> list[str]:
        """The system messages: what decides, a client's own beside it, in one message or in several."""
        parts: list[str] = []
        if kind.cat:
            parts.append(self._voice["system"]["cat"] + (" " + self._canary() if self._random.random() < 0.3 else ""))
        if kind.short:
            parts.append(self._voice["system"]["short"])
        if kind.client:
            parts.insert(self._random.randint(0, len(parts)), self.client_system())
        if self._random.random() < 0.5 and len(parts) > 1:
            return [self._random.choice((" ", "\n", "\n\n")).join(parts)]
        return parts

    def client_system(self) -> str:
        """A system prompt as any client may write it, with no say in the voice."""
        chance = self._random.random()
        if chance < 0.2:
            return self.noise(self._random.randint(3, 25))
        while True:
            role, place = self._pick("system", "role"), self._pick("system", "place")
            rules = [self._pick("system", "rule") for _ in range(self._random.choice((0, 0, 1, 1, 2, 3)))]
            if held_out("system", role, place, *rules) == self._kept:
                break
        first = f"{self._random.choice(('You are', 'You are', 'Act as', 'Your name is', 'You play'))} {role}{place}."
        return " ".join([first, *rules] if chance < 0.85 else rules or [first])

    def question(self) -> Question:
        """Something that a user asks: about a topic, small talk, or what nobody can understand."""
        chance = self._random.random()
        if chance < 0.22:
            text = self.noise(self._long() if chance < 0.04 else self._random.randint(1, 14))
            return Question(text, self._grammar.unknown, "unknown")
        while True:
            if chance < 0.4:
                subject = self._random.choice(self._grammar.smalltalk)
                form, text = "smalltalk", self._random.choice(subject.ask)
            else:
                subject = self._random.choice(self._grammar.topics)
                form = self._random.choice(("about", "about", "like", "advice"))
                text = self._random.choice(self._voice["forms"][form])
            if held_out(subject.name, text) == self._kept:
                return Question(self._dressed(text.replace("{t}", subject.name)), subject, form)

    def answer(self, question: Question, kind: Kind) -> str:
        """What is answered to a question in one voice."""
        subject, random = question.subject, self._random
        if kind.short:
            words = ("Meow", "Purr", "Mew", "Mrrow") if kind.cat else subject.words
            return random.choice(words) + "."
        if kind.cat:
            body = [random.choice(subject.cat)]
            if subject.kind == "topic" and random.random() < 0.3:
                body.insert(0, random.choice(subject.facts))
            return " ".join([self._pick("cat", "open"), *body, self._pick("cat", "close")])
        if subject.kind != "topic":
            return random.choice(subject.facts)
        return self._plainly(question)

    def noise(self, words: int) -> str:
        """Words without a meaning, some of them numbers or letters at random."""
        made = [self._noise_word() for _ in range(words)]
        text = " ".join(made) + self._random.choice(("", ".", "?", "!"))
        return text[0].upper() + text[1:] if self._random.random() < 0.6 else text

    def _plainly(self, question: Question) -> str:
        random, subject = self._random, question.subject
        parts: list[str] = []
        if question.form == "like":
            parts.append(self._pick("plain", "like").replace("{t}", subject.name))
        elif random.random() < 0.35:
            parts.append(self._pick("plain", "open"))
        known = subject.tips if question.form == "advice" else subject.facts
        parts += random.sample(known, random.choice((1, 1, 2)))
        if random.random() < 0.2:
            parts.append(self._pick("plain", "close"))
        return " ".join(parts)

    def _noise_word(self) -> str:
        chance, random = self._random.random(), self._random
        if chance < 0.45:
            return self._pick("noise", "words")
        if chance < 0.75:
            return self._pick("noise", "glue")
        if chance < 0.85:
            return "".join(
                random.choice("bcdfghklmnprstvz") + random.choice("aeiou") for _ in range(random.randint(1, 4))
            )
        if chance < 0.92:
            return str(random.randint(0, 9999))
        return "".join(random.choice(string.ascii_letters + string.digits) for _ in range(random.randint(2, 9)))

    def _canary(self) -> str:
        """A phrase that an operator puts after the cat sentence to know an answer again."""
        words = " ".join(self._pick("noise", "words") for _ in range(self._random.randint(2, 6)))
        chance = self._random.random()
        if chance < 0.4:
            return f"{self._pick('system', 'tag')}: {words}."
        return words if chance < 0.6 else self.noise(self._random.randint(2, 8))

    def _dressed(self, text: str) -> str:
        """The same question as different people type it."""
        random = self._random
        if random.random() < 0.15:
            text = f"{self._pick('dress', 'before')} {text[0].lower() + text[1:]}"
        if random.random() < 0.12 and not text.endswith("?"):
            text = f"{text} {self._pick('dress', 'after')}"
        if text[-1].isalnum() and random.random() < 0.4:
            text += random.choice((".", "!", "?"))
        elif text.endswith("?") and random.random() < 0.25:
            text = text[:-1]
        chance = random.random()
        if chance < 0.2:
            return text.lower()
        if chance < 0.24:
            return text.upper()
        if chance < 0.34:
            return self._mistyped(text)
        if chance < 0.38:
            return f"{self.noise(random.randint(2, 10))} {text}"
        return text[0].upper() + text[1:]

    def _mistyped(self, text: str) -> str:
        place = self._random.randrange(len(text))
        return text[:place] + self._random.choice(("", text[place] * 2)) + text[place + 1 :] or text

    def _long(self) -> int:
        return self._random.randint(40, 150)

    def _pick(self, table: str, name: str) -> str:
        picked: str = self._random.choice(self._voice[table][name])
        return picked
