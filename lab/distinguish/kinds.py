"""Every kind of request that the attacker sends: a table. `ORDINARY` are timed, `SWEEP` are the edges and refusals."""

from typing import Any

from lab.distinguish.asks import (
    BODY_LIMIT,
    CONTEXT,
    KEY,
    MANX,
    MOST_OUTPUT,
    TABBY,
    Ask,
    Draw,
    Kind,
    Make,
    chat,
    completion,
    conversation,
    filled,
    generate,
    get,
    post,
    raw,
)
from lab.distinguish.upstream import ANSWER, BREAK, FAIL

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
USAGE: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
TOLD: dict[str, Any] = {"return_finish_reason": True, "return_num_input_tokens": True, "return_num_output_tokens": True}

SHORT = 8
"""Tokens of an ordinary answer: they take their time."""

ORDINARY = (
    Kind("chat, streamed", lambda d: chat(d, **USAGE, max_tokens=SHORT), weight=4),
    Kind("chat, whole", lambda d: chat(d, max_tokens=SHORT), weight=3),
    Kind("chat that grows", conversation, weight=1, turns=4),
    Kind("completion, streamed", lambda d: completion(d, **USAGE, max_tokens=SHORT), weight=2),
    Kind("completion, whole", lambda d: completion(d, max_tokens=SHORT), weight=2),
    Kind("chat of a byte model", lambda d: chat(d, model=MANX, **USAGE, max_tokens=SHORT), weight=1),
    Kind("generate", lambda d: generate(d, max_tokens=SHORT, **TOLD), weight=1),
    Kind("generate_stream", lambda d: generate(d, "generate_stream", max_tokens=SHORT, **TOLD), weight=1),
)


def _turns(draw: Draw, *roles: str) -> list[dict[str, str]]:
    return [{"role": role, "content": draw.text(30, part=at)} for at, role in enumerate(roles)]


def _full(model: str, endpoint: str, output: int, over: int = 0, odd: str = "", **fields: Any) -> Make:
    """A request that fills the context to the last token, and `over` more."""

    def make(draw: Draw) -> Ask:
        text = filled(draw, model, endpoint, CONTEXT[model] - output + over, odd=odd)
        wished = {"max_tokens": output, **fields}
        if endpoint == "chat":
            return chat(draw, [{"role": "user", "content": text}], model=model, **wished)
        return completion(draw, text, model=model, **wished)

    return make


def _says(sentence: str, **fields: Any) -> Make:
    return lambda d: completion(d, f"{d.text(30)} {sentence}", max_tokens=64, **fields)


def _parts(draw: Draw) -> Ask:
    parts = [{"type": "text", "text": draw.text(20, part=at)} for at in range(3)]
    return chat(draw, [{"role": "user", "content": parts}], max_tokens=64)


def _with(**fields: Any) -> Make:
    return lambda d: chat(d, **{"max_tokens": 64, **fields})


def _hello(**fields: Any) -> Make:
    """Refused for a field, before anybody reads its words."""
    return lambda d: post(CHAT, {"model": TABBY, "messages": [{"role": "user", "content": "hello"}], **fields})


def _says_message(message: object) -> Make:
    return _hello(messages=[message])


def _prompt(**fields: Any) -> Make:
    return lambda d: post(COMPLETIONS, {"model": TABBY, "prompt": "hello", **fields})


def _v2(body: dict[str, Any], verb: str = "generate", model: str = TABBY) -> Make:
    return lambda d: post(f"/v2/models/{model}/{verb}", {"text_input": "hello", **body})


def _keyed(authorization: str | None) -> Make:
    return lambda d: post(CHAT, {"model": TABBY, "messages": []})._replace(authorization=authorization)


EDGES = (
    Kind("a system message", lambda d: chat(d, _turns(d, "system", "user"), max_tokens=64)),
    Kind("a developer message", lambda d: chat(d, _turns(d, "developer", "user"), max_tokens=64)),
    Kind("the system in the middle", lambda d: chat(d, _turns(d, "user", "system", "user"), max_tokens=64)),
    Kind("no user", lambda d: chat(d, _turns(d, "assistant"), max_tokens=64)),
    Kind("content parts", _parts),
    Kind("no cap", lambda d: chat(d)),
    Kind("streamed without usage", _with(stream=True)),
    Kind("max_completion_tokens", lambda d: chat(d, max_completion_tokens=64)),
    Kind("max_tokens 1", _with(max_tokens=1)),
    Kind("max_tokens 1, streamed", _with(max_tokens=1, **USAGE)),
    Kind("max_tokens as the answer", _with(max_tokens=len(ANSWER))),
    Kind("max_tokens one less", _with(max_tokens=len(ANSWER) - 1)),
    Kind("max_tokens the most", _with(max_tokens=MOST_OUTPUT)),
    Kind("three choices", _with(n=3)),
    Kind("two choices, streamed", _with(n=2, **USAGE)),
    Kind("log probabilities", _with(logprobs=True, top_logprobs=2)),
    Kind("log probabilities, streamed", _with(logprobs=True, top_logprobs=1, **USAGE)),
    Kind("log probabilities of a completion", lambda d: completion(d, max_tokens=64, logprobs=2)),
    Kind("stop and seed", _with(stop=["zebra", "okapi"], seed=7, temperature=0.2, top_p=0.9, user="someone")),
    Kind("two prompts", lambda d: completion(d, [d.text(20), d.text(30, part=1)], max_tokens=64)),
    Kind("odd characters", lambda d: completion(d, d.text(20) + " é 猫 \U0001f408 ｃａｔ​", max_tokens=64)),
    Kind("generate with its prompt", lambda d: generate(d, max_tokens=64, exclude_input_in_output=False)),
    Kind("generate, a stream of one", lambda d: generate(d, "generate_stream", stream=False, max_tokens=64, **TOLD)),
    Kind("full: chat", _full(TABBY, "chat", 64)),
    Kind("full: chat, streamed", _full(TABBY, "chat", 64, **USAGE)),
    Kind("full: chat, cut by its cap", _full(TABBY, "chat", len(ANSWER) - 1)),
    Kind("full: chat, one token left", _full(TABBY, "chat", 1)),
    Kind("full: completion", _full(TABBY, "completions", 64)),
    Kind("full: odd characters", _full(TABBY, "completions", 64, odd="\U0001f408é" * 20)),
    Kind("full: bytes", _full(MANX, "completions", 64)),
    Kind("full: bytes, odd characters", _full(MANX, "chat", 64, odd="\U0001f408é" * 20)),
    Kind("the server breaks off", _says(BREAK)),
    Kind("the server breaks off, streamed", _says(BREAK, **USAGE)),
)
"""Answered by the model, as it should be or not."""

BAD = (
    Kind("no JSON", lambda d: raw(CHAT, b'{"model":')),
    Kind("no body", lambda d: raw(CHAT, b"")),
    Kind("a list", lambda d: raw(CHAT, b"[]")),
    Kind("no UTF-8", lambda d: raw(COMPLETIONS, b'{"model":"tabby","prompt":"\xff"}')),
    Kind("nested deeply", lambda d: raw(CHAT, b"[" * 5000)),
    Kind("an unknown field", _hello(colour="red")),
    Kind("no messages", lambda d: post(CHAT, {"model": TABBY})),
    Kind("messages empty", _hello(messages=[])),
    Kind("messages a text", _hello(messages="hello")),
    Kind("no model", lambda d: post(CHAT, {"messages": [{"role": "user", "content": "hello"}]})),
    Kind("an unknown model", _hello(model="lion")),
    Kind("model a number", _hello(model=5)),
    Kind("an unknown role", _says_message({"role": "cat", "content": "hello"})),
    Kind("a tool's message", _says_message({"role": "tool", "content": "hello"})),
    Kind("content null", _says_message({"role": "user", "content": None})),
    Kind("an image", _says_message({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]})),
    Kind("a name", _says_message({"role": "user", "content": "hello", "name": "ann"})),
    Kind("too many messages", _hello(messages=[{"role": "user", "content": ""}] * 2049)),
    Kind("temperature 3", _hello(temperature=3)),
    Kind("temperature a text", _hello(temperature="hot")),
    Kind("top_p 0", _hello(top_p=0)),
    Kind("max_tokens 0", _hello(max_tokens=0)),
    Kind("max_tokens -1", _hello(max_tokens=-1)),
    Kind("max_tokens one too many", _hello(max_tokens=MOST_OUTPUT + 1)),
    Kind("max_completion_tokens one too many", _hello(max_completion_tokens=MOST_OUTPUT + 1)),
    Kind("max_tokens 2**31", _hello(max_tokens=2**31)),
    Kind("n 0", _hello(n=0)),
    Kind("n 17", _hello(n=17)),
    Kind("prompts times n", _prompt(prompt=["a"] * 9, n=2)),
    Kind("stop five", _hello(stop=list("abcde"))),
    Kind("stop empty", _hello(stop="")),
    Kind("stop too long", _hello(stop=["x" * 513])),
    Kind("top_logprobs alone", _hello(top_logprobs=2)),
    Kind("top_logprobs 21", _hello(logprobs=True, top_logprobs=21)),
    Kind("log probabilities of a model without", _hello(model=MANX, logprobs=True)),
    Kind("logit_bias 101", _hello(logit_bias={"5": 101})),
    Kind("logit_bias of a model without", _hello(model=MANX, logit_bias={"5": 1})),
    Kind("tools", _hello(tools=[{"type": "function", "function": {"name": "f"}}])),
    Kind("JSON mode", _hello(response_format={"type": "json_object"})),
    Kind("stream_options without stream", _hello(stream_options={"include_usage": True})),
    Kind("obfuscation", _hello(stream=True, stream_options={"include_obfuscation": True})),
    Kind("token ids", _prompt(prompt=[1, 2, 3])),
    Kind("no prompts", _prompt(prompt=[])),
    Kind("echo", _prompt(echo=True)),
    Kind("best_of", _prompt(best_of=2)),
    Kind("embeddings of a text model", lambda d: post("/v1/embeddings", {"model": TABBY, "input": "hello"})),
    Kind("one too many: chat", _full(TABBY, "chat", 64, 1)),
    Kind("one too many: completion", _full(TABBY, "completions", 64, 1)),
    Kind("one too many: odd characters", _full(TABBY, "completions", 64, 1, "\U0001f408é" * 20)),
    Kind("one too many: bytes", _full(MANX, "chat", 64, 1, "é" * 9)),
    Kind("prompt alone too long", _full(TABBY, "chat", 1, 1)),
    Kind("far too long", _prompt(prompt="hello " * 5000)),
    Kind("the server fails", _says(FAIL)),
    Kind("the server fails, streamed", _says(FAIL, **USAGE)),
    Kind("a huge body", lambda d: raw(CHAT, b"x" * (BODY_LIMIT + 1))),
    Kind("a huge head", lambda d: get("/v1/models")._replace(headers=f"X-Long: {'x' * 70_000}\r\n")),
    Kind("no key", _keyed(None)),
    Kind("another key", _keyed(f"Bearer {KEY}x")),
    Kind("half a key", _keyed(f"Basic {KEY}")),
    Kind("an empty key", _keyed("Bearer ")),
    Kind("no key for the list", lambda d: get("/v1/models", None)),
    Kind("GET a chat", lambda d: get(CHAT)),
    Kind("PUT a completion", lambda d: raw(COMPLETIONS, b"{}")._replace(method="PUT")),
    Kind("DELETE a model", lambda d: get("/v1/models/tabby")._replace(method="DELETE")),
    Kind("an unknown path", lambda d: raw("/v1/responses", b"{}")),
    Kind("an unknown path, GET", lambda d: get("/v1/files")),
    Kind("v2: an unknown model", _v2({}, model="lion")),
    Kind("v2: an unknown verb", _v2({}, "guess")),
    Kind("v2: the repository", lambda d: post("/v2/repository/index", {})),
    Kind("v2: a stream of generate", _v2({"stream": True})),
    Kind("v2: a stream with its prompt", _v2({"exclude_input_in_output": False}, "generate_stream")),
    Kind("v2: no text", lambda d: post("/v2/models/tabby/generate", {"text": "hello"})),
    Kind("v2: sampling_parameters no JSON", _v2({"sampling_parameters": "{"})),
    Kind("v2: a field twice", _v2({"temperature": 1, "parameters": {"temperature": 2}})),
    Kind("v2: infer with a text model", _v2({"inputs": []}, "infer")),
)
"""Refused, or failed."""

LISTS = (
    Kind("the models", lambda d: get("/v1/models")),
    Kind("a model", lambda d: get("/v1/models/tabby")),
    Kind("a model that is not", lambda d: get("/v1/models/lion")),
    Kind("the limits", lambda d: get("/v1/limits")),
    Kind("v2: a model", lambda d: get("/v2/models/tabby")),
    Kind("v2: a model's readiness", lambda d: get("/v2/models/tabby/ready")),
    Kind("v2: health", lambda d: get("/v2/health/ready", None)),
)

SWEEP = (*EDGES, *BAD, *LISTS)

UNTIL_REFUSED = (
    Kind("used up: the limits", lambda d: get("/v1/limits")),
    *(Kind("used up: a chat", lambda d: chat(d, max_tokens=64)) for _ in range(12)),
    Kind("used up: streamed", lambda d: chat(d, max_tokens=64, **USAGE)),
    Kind("used up: generate", lambda d: generate(d, max_tokens=64)),
    Kind("used up: more than the plan", lambda d: chat(d, max_tokens=64, n=16)),
    Kind("used up: the models", lambda d: get("/v1/models")),
    Kind("used up: the limits", lambda d: get("/v1/limits")),
)
"""In this order, of two keys whose plan ends in the midst of it."""
