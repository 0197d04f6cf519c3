"""rewrite: a prompt with the edits of a decision in it, on the neutral form, so on every endpoint and spelling.

- `prepend_system`, then the canary's sentence, stand before the system prompt, `append_system` behind it. A chat
  without a system prompt gets one. For a model whose chat template takes none, and for plain texts, they stand before
  the first thing that the user said, or the text.
- `prefix_last_user` stands before the last thing that the user said; where the user said nothing, at the end of the
  system prompt.
- `replace` works on the client's words before anything is added to them, so no policy changes another's sentence. It
  runs on the event loop, so what it may cost a request is bounded; what lies beyond stays as it was.

Adding is idempotent: what has the sentences already is left alone. Of the client's own words only `replace` takes any.
"""

from collections.abc import Callable

import msgspec

from gateway.core.decision import Edit, Place
from gateway.core.prompt import Message, Prompt
from gateway.policy.text import compile_pattern

BETWEEN = "\n\n"
"""Stands between what is added and what was there."""
MAX_REPLACED = 1000
"""Matches that are replaced in a request, by all its edits together."""
MAX_WRITTEN = 64 << 10
"""Bytes that are written in their place."""
MAX_READ = 16 << 20
"""Bytes that may have to be read for it: to find one match, a pattern may have to see its text to the end."""
LEAST_READ = 4096
"""What a short text counts as, since asking costs something too."""


def rewrite(prompt: Prompt, edits: tuple[Edit, ...], canary: str | None = None, *, system_role: bool = True) -> Prompt:
    """`canary`: its whole sentence. `system_role`: whether the model's chat template takes system messages."""
    replaces = [edit for edit in edits if edit.place == "replace"]
    if replaces:
        prompt = _replaced(prompt, replaces)
    before = _texts(edits, "prepend_system") + ((canary,) if canary else ())
    after, prefix = _texts(edits, "append_system"), _texts(edits, "prefix_last_user")
    if prompt.endpoint != "chat":
        head = (*before, *after, *prefix)
        return _with(prompt, texts=tuple(_headed(text, head) for text in prompt.texts))
    messages = list(prompt.messages)
    last_user = max((at for at, message in enumerate(messages) if message.role == "user"), default=None)
    if last_user is None:
        after, prefix = (*after, *prefix), ()
    if system_role:
        return _with(prompt, messages=_with_system(messages, before, after, prefix, last_user))
    return _with(prompt, messages=_without_system(messages, (*before, *after), prefix, last_user))


def _with_system(
    messages: list[Message], before: tuple[str, ...], after: tuple[str, ...], prefix: tuple[str, ...], last: int | None
) -> tuple[Message, ...]:
    if last is not None:
        messages[last] = Message("user", _headed(messages[last].content, prefix))
    if not (before or after):
        return tuple(messages)
    if not messages or messages[0].role != "system":
        return (Message("system", BETWEEN.join((*before, *after))), *messages)
    messages[0] = Message("system", _tailed(_headed(messages[0].content, before), after))
    return tuple(messages)


def _without_system(
    messages: list[Message], head: tuple[str, ...], prefix: tuple[str, ...], last: int | None
) -> tuple[Message, ...]:
    """Everything into what the user says: the head before the first of it, the prefix before the last."""
    if not messages:
        return (Message("user", BETWEEN.join(head)),) if head else ()
    first = next((at for at, message in enumerate(messages) if message.role == "user"), 0)
    if first == last:
        head, prefix = (*head, *prefix), ()
    messages[first] = Message(messages[first].role, _headed(messages[first].content, head))
    if last is not None:
        messages[last] = Message("user", _headed(messages[last].content, prefix))
    return tuple(messages)


def _headed(text: str, head: tuple[str, ...]) -> str:
    """The text with the head before it, once."""
    if not head:
        return text
    whole = BETWEEN.join(head)
    return text if text == whole or text.startswith(whole + BETWEEN) else whole + BETWEEN + text


def _tailed(text: str, tail: tuple[str, ...]) -> str:
    """The text with the tail behind it, once."""
    if not tail:
        return text
    whole = BETWEEN.join(tail)
    return text if text == whole or text.endswith(BETWEEN + whole) else text + BETWEEN + whole


def _replaced(prompt: Prompt, edits: list[Edit]) -> Prompt:
    budget = _Budget()
    for edit in edits:
        change = budget.change(edit)
        messages = tuple(_saying(message, change(message.content)) for message in prompt.messages)
        prompt = _with(prompt, messages=messages, texts=tuple(map(change, prompt.texts)))
    return prompt


def _saying(message: Message, text: str) -> Message:
    return message if text is message.content else Message(message.role, text)


class _Budget:
    """What `replace` may still cost a request."""

    def __init__(self) -> None:
        self._matches, self._written, self._read = MAX_REPLACED, MAX_WRITTEN, MAX_READ

    def change(self, edit: Edit) -> Callable[[str], str]:
        """The edit as a function of a text."""
        pattern, by = compile_pattern(edit.pattern), edit.text.encode()

        def changed(text: str) -> str:
            if not self._matches or self._read < 2 * max(len(text), LEAST_READ):
                return text
            # bytes, so that a lone surrogate in a client's text is carried through and no error
            data = text.encode("utf-8", "surrogatepass")
            cost = max(len(data), LEAST_READ)
            most = min(self._matches, self._written // max(len(by), 1), self._read // cost - 1)
            if most <= 0:  # to RE2, 0 is no bound at all
                return text
            data, found = pattern.subn(lambda _: by, data, most)
            self._matches -= found
            self._written -= found * len(by)
            self._read -= (found + 1) * cost
            return data.decode("utf-8", "surrogatepass") if found else text

        return changed


def _texts(edits: tuple[Edit, ...], place: Place) -> tuple[str, ...]:
    return tuple(edit.text for edit in edits if edit.place == place)


def _with(prompt: Prompt, **words: tuple[Message, ...] | tuple[str, ...]) -> Prompt:
    """The prompt with other words and everything else as it was."""
    return msgspec.structs.replace(prompt, **words)
