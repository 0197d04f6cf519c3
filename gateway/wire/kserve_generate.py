"""Triton's generate extension for text models: JSON bytes -> Prompt, Deltas -> JSON.

Source: docs/protocol/extension_generate.md of triton-inference-server, and the vLLM backend's inputs, whose names its
clients use: `text_input`, `stream`, `sampling_parameters` (JSON in a string), `exclude_input_in_output`, `return_*`.
Sampling fields may stand at the top, in `parameters` or in `sampling_parameters`; nothing else is taken.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from gateway.core.delta import Delta, Usage
from gateway.core.errors import InvalidRequest, UnsupportedParameter
from gateway.core.prompt import Prompt
from gateway.wire.answers import Choice
from gateway.wire.openai import SamplingFields, sampling_of
from gateway.wire.reading import convert, decode
from gateway.wire.sse import frame

_encode = msgspec.json.Encoder().encode
_FLAGS = ("stream", "exclude_input_in_output", "return_finish_reason", "return_num_input_tokens",
          "return_num_output_tokens")  # fmt: skip


class _Parameters(SamplingFields, forbid_unknown_fields=True, kw_only=True):
    stream: bool | None = None
    exclude_input_in_output: bool | None = None
    return_finish_reason: bool | None = None
    return_num_input_tokens: bool | None = None
    return_num_output_tokens: bool | None = None


class GenerateRequest(_Parameters, forbid_unknown_fields=True, kw_only=True):
    text_input: str | Annotated[list[str], Meta(min_length=1, max_length=1)]
    id: Annotated[str, Meta(max_length=200)] | None = None
    sampling_parameters: str | dict[str, Any] | None = None
    parameters: _Parameters | None = None


_decoder = msgspec.json.Decoder(GenerateRequest)
_wishes = msgspec.json.Decoder(SamplingFields)
_SAMPLING = tuple(name for name in SamplingFields.__struct_fields__ if name != "max_tokens")


class Form(Struct, frozen=True):
    """How the answer is to look."""

    prefix: str = ""
    """What stands before the generated text."""
    whole: bool = False
    """A stream of one frame."""
    finish_reason: bool = False
    input_tokens: bool = False
    output_tokens: bool = False


def decode_generate(body: bytes) -> GenerateRequest:
    """The request in a body of `generate` or `generate_stream`. Raises InvalidRequest."""
    return decode(_decoder, body)


def generate_prompt(
    request: GenerateRequest, model: str, abilities: frozenset[str], *, stream: bool
) -> tuple[Prompt, Form]:
    """The neutral form, and how to answer. Raises InvalidRequest."""
    text = request.text_input if isinstance(request.text_input, str) else request.text_input[0]
    sources = [source for source in (_sampling_parameters(request), request.parameters, request) if source is not None]
    wishes = SamplingFields(**{name: _one(name, sources) for name in _SAMPLING})
    if wishes.n not in (None, 1):
        raise UnsupportedParameter("Unsupported parameter: 'n': generate gives one answer. Leave it out.", param="n")
    flags = {name: _one(name, sources) for name in _FLAGS}
    prompt = Prompt(
        endpoint="generate",
        model=model,
        texts=(text,),
        sampling=sampling_of(wishes, None, abilities),
        # The smallest cap binds, as in a chat: what is enforced is what is reserved.
        max_tokens=min((source.max_tokens for source in sources if source.max_tokens is not None), default=None),
        stream=stream,
    )
    return prompt, _form(flags, text, stream)


def _sampling_parameters(request: GenerateRequest) -> SamplingFields | None:
    given = request.sampling_parameters
    if given is None or given == "":
        return None
    if isinstance(given, dict):
        return convert(given, SamplingFields, "sampling_parameters")
    try:
        return _wishes.decode(given)
    except msgspec.ValidationError:
        return convert(msgspec.json.decode(given), SamplingFields, "sampling_parameters")  # tells the place
    except (msgspec.DecodeError, RecursionError) as problem:
        raise InvalidRequest("'sampling_parameters' is not valid JSON.", param="sampling_parameters") from problem


def _one(name: str, sources: list[SamplingFields]) -> Any:
    """The value of a field that may stand in several places. Raises InvalidRequest where they differ."""
    found = [value for source in sources if (value := getattr(source, name, None)) is not None]
    if any(value != found[0] for value in found):
        raise InvalidRequest(f"'{name}' is given twice, with different values; give it once.", param=name)
    return found[0] if found else None


def _form(flags: dict[str, Any], text: str, stream: bool) -> Form:
    """As the vLLM backend: the prompt stands before an answer that is not streamed, unless it is asked not to."""
    deltas = stream if flags["stream"] is None else flags["stream"]
    if deltas and not stream:
        raise InvalidRequest("'stream': true is for generate_stream; generate answers once.", param="stream")
    exclude = deltas if flags["exclude_input_in_output"] is None else flags["exclude_input_in_output"]
    if deltas and not exclude:
        raise InvalidRequest(
            "'exclude_input_in_output': false is not for streams; leave it out.", param="exclude_input_in_output"
        )
    return Form(
        prefix="" if exclude else text,
        whole=not deltas,
        finish_reason=bool(flags["return_finish_reason"]),
        input_tokens=bool(flags["return_num_input_tokens"]),
        output_tokens=bool(flags["return_num_output_tokens"]),
    )


class GenerateWriter:
    """See gateway.wire.answers.Writer."""

    def __init__(self, model: str, form: Form) -> None:
        self._head = b'{"model_name":%b' % _encode(model)
        self._form = form
        self._gathered = Choice()
        self._usage = Usage()

    def delta(self, delta: Delta) -> bytes:
        """See Writer."""
        if not self._form.whole:
            usage = Usage(delta.prompt_tokens, delta.completion_tokens)
            return frame(self._answer(delta.text, delta.finish_reason, usage))
        self._gathered.add(delta)
        self._usage.prompt_tokens = delta.prompt_tokens or self._usage.prompt_tokens
        self._usage.completion_tokens += delta.completion_tokens
        return frame(self.whole([self._gathered], self._usage)) if delta.finish_reason else b""

    def usage(self, usage: Usage) -> bytes:
        """See Writer: KServe has no such frame."""
        return b""

    def whole(self, choices: list[Choice], usage: Usage) -> bytes:
        """See Writer."""
        text = self._form.prefix + "".join(choices[0].texts)
        return self._answer(text, choices[0].finish_reason, usage)

    def _answer(self, text: str, reason: str | None, usage: Usage) -> bytes:
        parts = [self._head, b'"text_output":%b' % _encode(text)]
        if self._form.finish_reason:
            parts.append(b'"finish_reason":%b' % _encode(str(reason)))  # unfinished: the string "None", as vLLM
        if self._form.input_tokens:
            parts.append(b'"num_input_tokens":%d' % usage.prompt_tokens)
        if self._form.output_tokens:
            parts.append(b'"num_output_tokens":%d' % usage.completion_tokens)
        return b",".join(parts) + b"}"
