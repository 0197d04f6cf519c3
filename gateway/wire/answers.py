"""OpenAI's answers: Deltas -> JSON bytes, streamed and whole. A writer encodes what never changes once."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from gateway.core.delta import Delta, TokenLogprob, Usage
from gateway.wire.sse import frame

_encode = msgspec.json.Encoder().encode
Tokens = Sequence[TokenLogprob]


class Writer(Protocol):
    """Writes one request's answer."""

    def delta(self, delta: Delta) -> bytes:
        """The frames that tell this delta."""

    def usage(self, usage: Usage) -> bytes:
        """The frame that tells the usage."""

    def whole(self, choices: list["Choice"], usage: Usage) -> bytes:
        """The JSON body of an answer that is not streamed."""


class Choice:
    """One choice, gathered from its deltas."""

    __slots__ = ("finish_reason", "logprobs", "texts")

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.finish_reason: str | None = None
        self.logprobs: list[TokenLogprob] | None = None

    def add(self, delta: Delta) -> None:
        """Take one more delta in."""
        self.texts.append(delta.text)
        self.finish_reason = delta.finish_reason or self.finish_reason
        if delta.logprobs is not None:
            self.logprobs = [*(self.logprobs or ()), *delta.logprobs]


class ChatWriter:
    """`/v1/chat/completions`."""

    def __init__(self, request: str, model: str, created: int, include_usage: bool) -> None:
        self._identity = _identity(f"chatcmpl-{request[4:]}", created, model)
        self._tail = b',"usage":null}\n\n' if include_usage else b"}\n\n"
        self._heads: dict[int, bytes] = {}  # what every frame of a choice begins with

    def delta(self, delta: Delta) -> bytes:
        """See Writer. A choice's first frame names the role, as OpenAI's does."""
        head = self._heads.get(delta.choice)
        frames = b""
        if head is None:
            head = self._heads[delta.choice] = (
                b'data: {"object":"chat.completion.chunk",%b,"choices":[{"index":%d,"delta":'
                % (self._identity, delta.choice)
            )
            frames = b'%b{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]%b' % (
                head, self._tail,
            )  # fmt: skip
        if delta.text or delta.logprobs:
            logprobs = _encode(chat_logprobs(delta.logprobs)) if delta.logprobs else b"null"
            frames += b'%b{"content":%b},"logprobs":%b,"finish_reason":null}]%b' % (
                head, _encode(delta.text), logprobs, self._tail,
            )  # fmt: skip
        if delta.finish_reason:
            frames += b'%b{},"logprobs":null,"finish_reason":"%b"}]%b' % (
                head, delta.finish_reason.encode(), self._tail,
            )  # fmt: skip
        return frames

    def usage(self, usage: Usage) -> bytes:
        """See Writer."""
        return frame(b'{"object":"chat.completion.chunk",%b,"choices":[],"usage":%b}' % (self._identity, _usage(usage)))

    def whole(self, choices: list[Choice], usage: Usage) -> bytes:
        """See Writer."""
        parts = [
            b'{"index":%d,"message":{"role":"assistant","content":%b,"refusal":null},"logprobs":%b,"finish_reason":%b}'
            % (
                index,
                _encode("".join(choice.texts)),
                b"null" if choice.logprobs is None else _encode(chat_logprobs(choice.logprobs)),
                _encode(choice.finish_reason),
            )
            for index, choice in enumerate(choices)
        ]
        return b'{"object":"chat.completion",%b,"choices":[%b],"usage":%b}' % (
            self._identity, b",".join(parts), _usage(usage),
        )  # fmt: skip


class CompletionWriter:
    """`/v1/completions`."""

    def __init__(self, request: str, model: str, created: int, include_usage: bool) -> None:
        self._identity = _identity(f"cmpl-{request[4:]}", created, model)
        self._tail = b',"usage":null}\n\n' if include_usage else b"}\n\n"
        self._written: dict[int, int] = {}  # characters of each choice, for the logprobs' offsets

    def delta(self, delta: Delta) -> bytes:
        """See Writer."""
        if not (delta.text or delta.finish_reason or delta.logprobs):
            return b""
        return b'data: {"object":"text_completion",%b,"choices":[%b]%b' % (
            self._identity,
            self._choice(delta.choice, delta.text, delta.logprobs, delta.finish_reason),
            self._tail,
        )

    def usage(self, usage: Usage) -> bytes:
        """See Writer."""
        return frame(b'{"object":"text_completion",%b,"choices":[],"usage":%b}' % (self._identity, _usage(usage)))

    def whole(self, choices: list[Choice], usage: Usage) -> bytes:
        """See Writer."""
        parts = [
            self._choice(index, "".join(choice.texts), choice.logprobs, choice.finish_reason)
            for index, choice in enumerate(choices)
        ]
        return b'{"object":"text_completion",%b,"choices":[%b],"usage":%b}' % (
            self._identity, b",".join(parts), _usage(usage),
        )  # fmt: skip

    def _choice(self, index: int, text: str, logprobs: Tokens | None, reason: str | None) -> bytes:
        offset = self._written.get(index, 0)
        self._written[index] = offset + len(text)
        told = b"null" if logprobs is None else _encode(completion_logprobs(logprobs, offset))
        return b'{"text":%b,"index":%d,"logprobs":%b,"finish_reason":%b}' % (
            _encode(text), index, told, _encode(reason),
        )  # fmt: skip


def chat_logprobs(tokens: Tokens) -> dict[str, object]:
    """A chat choice's `logprobs`."""

    def told(token: str, logprob: float) -> dict[str, object]:
        return {"token": token, "logprob": logprob, "bytes": list(token.encode(errors="surrogatepass"))}

    content = [
        {**told(t.token, t.logprob), "top_logprobs": [told(token, logprob) for token, logprob in t.top]} for t in tokens
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(tokens: Tokens, offset: int) -> dict[str, object]:
    """A completion choice's `logprobs`; `offset` is where its text begins in the whole choice, in characters."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.token)
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [dict(token.top) for token in tokens],
        "text_offset": offsets,
    }


def _identity(answer: str, created: int, model: str) -> bytes:
    return b'"id":%b,"created":%d,"model":%b' % (_encode(answer), created, _encode(model))


def _usage(usage: Usage) -> bytes:
    cached = b',"prompt_tokens_details":{"cached_tokens":%d}' % usage.cached_tokens if usage.cached_tokens else b""
    return b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d%b}' % (
        usage.prompt_tokens, usage.completion_tokens, usage.prompt_tokens + usage.completion_tokens, cached,
    )  # fmt: skip
