"""Chat templates: Jinja2 in a sandbox, as model makers ship them (the conventions of Hugging Face's tokenizers)."""

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from jinja2 import TemplateError, TemplateSyntaxError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gateway.core.errors import InvalidRequest
from gateway.core.prompt import Message
from gateway.fleet.file import FleetError

Renderer = Callable[[tuple[Message, ...]], str]


_FAILURES = (TemplateError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What a template can raise: Jinja2's own errors, and Python's for what the template does with the messages."""


class _Rejected(TemplateError):
    """The template's own word that these messages do not fit it."""


def _reject(message: str) -> NoReturn:
    raise _Rejected(message)


def read_template(path: Path) -> Renderer:
    """The template in a file, as a function from messages to the text that the model reads.

    The template sees `messages` (dicts with `role` and `content`), `add_generation_prompt` and `raise_exception`.
    The function raises InvalidRequest where the template rejects the messages. Raises FleetError.
    """
    try:
        source = path.read_text()
    except OSError as problem:
        raise FleetError(f"The chat template {path} cannot be read: {problem.strerror}.") from problem
    except UnicodeDecodeError as problem:
        raise FleetError(f"The chat template {path} is not text in UTF-8.") from problem
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.globals["raise_exception"] = _reject
    try:
        template = environment.from_string(source)
    except TemplateSyntaxError as problem:
        raise FleetError(f"The chat template {path}, line {problem.lineno}: {problem.message}.") from problem

    given = {**template.globals, "add_generation_prompt": True}
    template.globals = {}  # they are in `given`: each context would list them once more

    def render(messages: tuple[Message, ...]) -> str:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            # What `template.render` does, less a copy of the globals for each request (half of its time).
            context = template.new_context({**given, "messages": turns}, shared=True)
            return "".join(template.root_render_func(context))
        except _FAILURES as problem:
            raise InvalidRequest(
                "These messages do not fit this model's chat template (order of roles, perhaps).",
                param="messages",
                detail=type(problem).__name__,
            ) from problem

    return render
