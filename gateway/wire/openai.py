"""OpenAI's requests: JSON bytes -> Prompt. Every field of the schema is honoured or refused by name.

Schema: OpenAI API reference, "Create chat completion" and "Create completion", as of November 2026.
"""

import re
from itertools import islice
from operator import attrgetter
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from gateway.core.errors import InvalidRequest, UnsupportedParameter
from gateway.core.prompt import Message, Prompt, Sampling
from gateway.wire.reading import decode

MAX_CHOICES = 16
"""Choices of one request, prompts times `n`: each is a generation of its own on a GPU."""

MAX_MESSAGES = 2048
"""Messages of one chat: reading and rendering them takes its time on the event loop."""
MAX_PARTS = 2048
"""Parts of text in all messages of a chat."""
MAX_OBJECTS = MAX_MESSAGES + MAX_PARTS + 1024
"""JSON objects in the body of a chat."""

_OBJECT = re.compile(rb'\{[ \t\r\n]*"')
"""Where an object with fields begins. In a text quotes are escaped, so there is one only where it ends with a brace."""

Temperature = Annotated[float, Meta(ge=0, le=2)]
TopP = Annotated[float, Meta(gt=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Cap = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Choices = Annotated[int, Meta(ge=1, le=MAX_CHOICES)]
Bias = Annotated[float, Meta(ge=-100, le=100)]
StopString = Annotated[str, Meta(min_length=1, max_length=512)]
StopList = Annotated[list[StopString], Meta(max_length=4)]


class StreamOptions(Struct, forbid_unknown_fields=True):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Part(Struct, forbid_unknown_fields=True, gc=False):
    type: str
    text: str | None = None
    image_url: Any = None
    input_audio: Any = None
    file: Any = None
    refusal: Any = None


class ChatMessage(Struct, forbid_unknown_fields=True, gc=False):
    role: str
    content: str | list[Part] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: Any = None
    tool_call_id: Any = None
    function_call: Any = None
    audio: Any = None
    annotations: Any = None


class SamplingFields(Struct, forbid_unknown_fields=True, kw_only=True, gc=False):
    """How to choose tokens, and how many."""

    max_tokens: Cap | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Seed | None = None
    stop: str | StopList | None = None
    n: Choices | None = None
    logit_bias: dict[str, Bias] | None = None


class _Common(SamplingFields, forbid_unknown_fields=True, kw_only=True):
    """What both endpoints take."""

    model: str
    user: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None


class ChatRequest(_Common, forbid_unknown_fields=True, kw_only=True):
    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Cap | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    safety_identifier: str | None = None
    audio: Any = None
    function_call: Any = None
    functions: Any = None
    metadata: Any = None
    modalities: Any = None
    moderation: Any = None
    parallel_tool_calls: Any = None
    prediction: Any = None
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    reasoning_effort: Any = None
    response_format: Any = None
    service_tier: Any = None
    store: Any = None
    tool_choice: Any = None
    tools: Any = None
    verbosity: Any = None
    web_search_options: Any = None


class CompletionRequest(_Common, forbid_unknown_fields=True, kw_only=True):
    prompt: str | Annotated[list[Any], Meta(min_length=1)]
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    best_of: Any = None
    echo: Any = None
    suffix: Any = None


# Values that ask for nothing: a client that spells out a default is not refused for it.
_HARMLESS: dict[str, tuple[object, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "metadata": ({},),
    "modalities": (["text"],),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none",),
    "tools": ([],),
}
_CHAT_UNSUPPORTED = (
    "audio", "function_call", "functions", "metadata", "modalities", "moderation", "parallel_tool_calls", "prediction",
    "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "reasoning_effort", "response_format",
    "service_tier", "store", "tool_choice", "tools", "verbosity", "web_search_options",
)  # fmt: skip
_COMPLETION_UNSUPPORTED = ("best_of", "echo", "suffix")
_MESSAGE_UNSUPPORTED = ("tool_calls", "tool_call_id", "function_call", "audio", "annotations", "name")
# One call for all of them: nearly every request has none, and loops over names cost more than the JSON itself.
_chat_extras = attrgetter(*_CHAT_UNSUPPORTED)
_completion_extras = attrgetter(*_COMPLETION_UNSUPPORTED)
_message_extras = attrgetter(*_MESSAGE_UNSUPPORTED)
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}

_chat_decoder = msgspec.json.Decoder(ChatRequest)
_completion_decoder = msgspec.json.Decoder(CompletionRequest)


def decode_chat(body: bytes) -> ChatRequest:
    """The request in a body of `/v1/chat/completions`. Raises InvalidRequest, before anything is built where the body
    has more objects than messages and parts may be."""
    if body.count(b"{") > MAX_OBJECTS and next(islice(_OBJECT.finditer(body), MAX_OBJECTS, None), None) is not None:
        raise InvalidRequest(
            f"Invalid value for 'messages': at most {MAX_MESSAGES} messages, of {MAX_PARTS} content parts in all, are "
            "taken. Join some of them.",
            param="messages",
        )
    return decode(_chat_decoder, body)


def decode_completion(body: bytes) -> CompletionRequest:
    """The request in a body of `/v1/completions`. Raises InvalidRequest."""
    return decode(_completion_decoder, body)


def chat_prompt(request: ChatRequest, abilities: frozenset[str]) -> Prompt:
    """The neutral form of a chat, for a model with these abilities. Raises InvalidRequest, UnsupportedParameter."""
    _refuse(_CHAT_UNSUPPORTED, _chat_extras(request))
    top = request.top_logprobs
    if top is not None and not request.logprobs:
        raise InvalidRequest("'top_logprobs' needs 'logprobs' to be true.", param="top_logprobs")
    cap, cap_name = request.max_tokens, "max_tokens"
    if request.max_completion_tokens is not None and (cap is None or request.max_completion_tokens < cap):
        cap, cap_name = request.max_completion_tokens, "max_completion_tokens"
    return Prompt(
        endpoint="chat",
        model=request.model,
        messages=_messages(request.messages),
        sampling=sampling_of(request, (top or 0) if request.logprobs else None, abilities),
        max_tokens=cap,
        max_tokens_name=cap_name,
        n=request.n or 1,
        stream=bool(request.stream),
        include_usage=_include_usage(request),
        end_user=request.safety_identifier or request.user,
    )


def completion_prompt(request: CompletionRequest, abilities: frozenset[str]) -> Prompt:
    """The neutral form of a completion, for a model with these abilities. Raises InvalidRequest."""
    _refuse(_COMPLETION_UNSUPPORTED, _completion_extras(request))
    texts = (request.prompt,) if isinstance(request.prompt, str) else tuple(request.prompt)
    if not all(isinstance(text, str) for text in texts):
        raise UnsupportedParameter("Unsupported parameter: 'prompt' as token ids; send text.", param="prompt")
    n = request.n or 1
    if len(texts) * n > MAX_CHOICES:
        raise InvalidRequest(f"Prompts times 'n' must be at most {MAX_CHOICES} in one request.", param="n")
    return Prompt(
        endpoint="completions",
        model=request.model,
        texts=texts,
        sampling=sampling_of(request, request.logprobs, abilities),
        max_tokens=request.max_tokens,
        n=n,
        stream=bool(request.stream),
        include_usage=_include_usage(request),
        end_user=request.user,
    )


def _refuse(names: tuple[str, ...], values: tuple[Any, ...]) -> None:
    if values.count(None) == len(values):
        return
    for name, value in zip(names, values, strict=True):
        if value is not None and value not in _HARMLESS.get(name, ()):
            raise UnsupportedParameter(
                f"Unsupported parameter: '{name}' is not supported with this model. Leave it out.", param=name
            )


def _messages(messages: list[ChatMessage]) -> tuple[Message, ...]:
    if sum([len(message.content) for message in messages if type(message.content) is list]) > MAX_PARTS:
        raise InvalidRequest(
            f"Invalid value for 'messages': at most {MAX_PARTS} content parts in all messages are taken. Join some of "
            "them.",
            param="messages",
        )
    return tuple([_message(message, i) for i, message in enumerate(messages)])


def _message(message: ChatMessage, index: int) -> Message:
    role = _ROLES.get(message.role)
    extras = _message_extras(message)
    if role is None or extras.count(None) != len(extras):
        role = _checked_role(message, extras, f"messages[{index}]")
    if type(message.content) is str and message.refusal is None:
        return Message(role, message.content)
    return Message(role, _text(message, f"messages[{index}]"))


def _checked_role(message: ChatMessage, extras: tuple[Any, ...], where: str) -> str:
    role = _ROLES.get(message.role)
    if role is None:
        if message.role in ("tool", "function"):
            raise UnsupportedParameter(
                f"Unsupported parameter: '{where}.role': this model takes no tool messages.", param=f"{where}.role"
            )
        raise InvalidRequest(
            f"Invalid value for '{where}.role': use system, developer, user or assistant.", param=f"{where}.role"
        )
    for name, value in zip(_MESSAGE_UNSUPPORTED, extras, strict=True):
        if value not in (None, []):
            raise UnsupportedParameter(
                f"Unsupported parameter: '{where}.{name}' is not supported with this model. Leave it out.",
                param=f"{where}.{name}",
            )
    return role


def _text(message: ChatMessage, where: str) -> str:
    """The text of a message: its parts, in order, as one; a refusal of an earlier answer is what was said then."""
    content = message.content
    if content is None:
        if message.refusal is None:
            raise InvalidRequest(f"Missing required parameter: '{where}.content'.", param=f"{where}.content")
        return message.refusal
    if message.refusal is not None:
        raise UnsupportedParameter(
            f"Unsupported parameter: '{where}.refusal' beside 'content'.", param=f"{where}.refusal"
        )
    if isinstance(content, str):
        return content
    return "".join([_part(part, f"{where}.content[{i}]") for i, part in enumerate(content)])


def _part(part: Part, where: str) -> str:
    if part.type != "text":
        raise UnsupportedParameter(
            f"Unsupported parameter: '{where}' of type '{part.type[:40]}': this model reads text.",
            param=f"{where}.type",
        )
    for name in ("image_url", "input_audio", "file", "refusal"):
        if getattr(part, name) is not None:
            raise UnsupportedParameter(
                f"Unsupported parameter: '{where}.{name}': this model reads text.", param=f"{where}.{name}"
            )
    if part.text is None:
        raise InvalidRequest(f"Missing required parameter: '{where}.text'.", param=f"{where}.text")
    return part.text


def sampling_of(request: SamplingFields, logprobs: int | None, abilities: frozenset[str]) -> Sampling:
    """The neutral form of the sampling fields, for a model with these abilities. Raises InvalidRequest."""
    if logprobs is not None or request.logit_bias:
        _refuse_the_unable(request, logprobs, abilities)
    stop = request.stop
    if stop == "":
        raise InvalidRequest("Invalid value for 'stop': a stop string may not be empty.", param="stop")
    return Sampling(
        temperature=request.temperature,
        top_p=request.top_p,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        seed=request.seed,
        stop=(stop,) if isinstance(stop, str) else tuple(stop or ()),
        logprobs=logprobs,
        logit_bias=request.logit_bias or None,
    )


def _refuse_the_unable(request: SamplingFields, logprobs: int | None, abilities: frozenset[str]) -> None:
    for name, asked in (("logprobs", logprobs is not None), ("logit_bias", bool(request.logit_bias))):
        if asked and name not in abilities:
            raise UnsupportedParameter(
                f"Unsupported parameter: '{name}' is not supported with this model. Leave it out.", param=name
            )


def _include_usage(request: ChatRequest | CompletionRequest) -> bool:
    options = request.stream_options
    if options is None:
        return False
    if not request.stream:
        raise InvalidRequest("'stream_options' is only for requests with 'stream': true.", param="stream_options")
    if options.include_obfuscation:
        raise UnsupportedParameter(
            "Unsupported parameter: 'stream_options.include_obfuscation'. Leave it out.",
            param="stream_options.include_obfuscation",
        )
    return bool(options.include_usage)
