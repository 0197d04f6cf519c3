"""A Triton whose answers are fixed and whose prefill is linear: `python -m lab.distinguish.upstream`.

vLLM's tensor contract over `generate_stream`. Whatever it is asked, the answer is the same ANSWER, cut at `max_tokens`.
Its first token comes after `--base-ms` and `--prefill-ms` for every token of the prompt that is not in the prefix cache
(whole blocks of 16 tokens, by a hash of all tokens up to their end, as vLLM has it); each further token after
`--token-ms`. There is no noise in any of it: a real engine hides differences that are plain here.

A prompt and `max_tokens` that are longer together than the model's context are refused with 400, as vLLM refuses them.
Two sentences in a prompt are obeyed: FAIL (status 500) and BREAK (an error after the third token).

`--log FILE` gets a line of JSON for each prompt that came (`Received`).
"""

import argparse
import asyncio
import re
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec
import uvloop
from tokenizers import Tokenizer

from lab.bench.triton_answers import control_answers, json_answer

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
FIRST_WORD = " Mrrow"
ANSWER = tuple(
    re.findall(
        r" \w+", f"{FIRST_WORD} said the keeper of the small door and nobody could tell what she meant by it all"
    )
)
"""The text of each token."""
FAIL, BREAK = "the server fails now", "the server breaks off now"
BLOCK = 16
"""Tokens of a block of the prefix cache."""
CACHE_BLOCKS = 100_000
SPIN_S = 0.0015
"""Timers are good to a millisecond; what is left of a wait is spun away."""


class ModelFile(msgspec.Struct, frozen=True):
    """A model: its context, and the path of its `tokenizer.json`, empty for one token a byte."""

    context: int
    tokenizer: str = ""


class Received(msgspec.Struct, frozen=True):
    """A prompt as it came."""

    model: str
    text: str
    tokens: int
    cached: int


class _Request(msgspec.Struct):
    text_input: str
    sampling_parameters: str = "{}"
    return_logprobs: bool = False


class _Sampling(msgspec.Struct):
    max_tokens: int = 16
    logprobs: int | None = None


class Rates(msgspec.Struct, frozen=True):
    """In milliseconds; a token takes as long as the demo model's."""

    base: float = 1.0
    prefill: float = 0.04
    token: float = 2.0
    cache: bool = True


_decode = msgspec.json.Decoder(_Request).decode
_sampling = msgspec.json.Decoder(_Sampling).decode


class PrefixCache:
    """The blocks that have been computed, the least lately used of them forgotten first."""

    def __init__(self, size: int = CACHE_BLOCKS) -> None:
        self._size = size
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def take(self, tokens: list[int]) -> int:
        """How many of the tokens were there, at the prompt's beginning; all of its whole blocks are there from now on.
        The last token is always computed, as an engine must to go on from it."""
        cached, parent, hit = 0, 0, True
        for start in range(0, len(tokens) - BLOCK + 1, BLOCK):
            parent = hash((parent, *tokens[start : start + BLOCK]))
            hit = hit and parent in self._blocks and start + BLOCK < len(tokens)
            cached += BLOCK * hit
            self._blocks[parent] = None
            self._blocks.move_to_end(parent)
        while len(self._blocks) > self._size:
            self._blocks.popitem(last=False)
        return cached


class Engine:
    """Its models, each with a prefix cache of its own."""

    def __init__(self, models: Mapping[str, ModelFile], rates: Rates, note: Callable[[Received], None]) -> None:
        self.models, self.rates, self._note = models, rates, note
        self._tokenizers = {name: Tokenizer.from_file(one.tokenizer) for name, one in models.items() if one.tokenizer}
        self._caches = {name: PrefixCache() for name in models}

    def read(self, model: str, text: str) -> Received:
        """A prompt comes in."""
        tokens = self._tokens(model, text)
        cached = self._caches[model].take(tokens) if self.rates.cache else 0
        received = Received(model, text, len(tokens), cached)
        self._note(received)
        return received

    def _tokens(self, model: str, text: str) -> list[int]:
        tokenizer = self._tokenizers.get(model)
        if tokenizer is None:
            return list(text.encode())
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    def first_after_s(self, received: Received) -> float:
        """From a prompt's arrival to its first token."""
        return (self.rates.base + self.rates.prefill * (received.tokens - received.cached)) / 1000


async def until(due: float) -> None:
    """Return at that instant of `time.perf_counter`."""
    left = due - time.perf_counter()
    if left > SPIN_S:
        await asyncio.sleep(left - SPIN_S)
    while time.perf_counter() < due:
        pass


class Connections:
    """All connections."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._control = control_answers(tuple(engine.models))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, request after request."""
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                arrived = time.perf_counter()
                method, path, _ = head.split(b" ", 2)
                at = head.lower().find(b"content-length:")
                body = await reader.readexactly(int(head[at + 15 :].split(b"\r\n", 1)[0])) if at >= 0 else b""
                if method == b"POST":
                    await self._generate(path.split(b"/")[3].decode(), body, arrived, writer)
                else:
                    writer.write(self._control.get(path, json_answer("404 Not Found", {"error": "not found"})))
        writer.transport.abort()

    async def _generate(self, model: str, body: bytes, arrived: float, writer: asyncio.StreamWriter) -> None:
        asked = _decode(body)
        wished = _sampling(asked.sampling_parameters)
        received = self._engine.read(model, asked.text_input)
        if received.tokens + wished.max_tokens > self._engine.models[model].context:
            writer.write(json_answer("400 Bad Request", {"error": "longer than the context"}))
            return
        due = arrived + self._engine.first_after_s(received)
        if FAIL in asked.text_input:
            await until(due)
            writer.write(json_answer("500 Internal Server Error", {"error": "it failed"}))
            return
        breaks = BREAK in asked.text_input
        writer.write(HEAD)
        words = ANSWER[: min(wished.max_tokens, 3 if breaks else len(ANSWER))]
        for number, word in enumerate(words):
            await until(due + number * self._engine.rates.token / 1000)
            last = number + 1 == len(words) and not breaks
            reason = ("stop" if wished.max_tokens > len(ANSWER) else "length") if last else "None"
            writer.write(_frame(_event(received, word, reason, wished.logprobs if asked.return_logprobs else None)))
            await writer.drain()
        if breaks:
            writer.write(_frame({"error": "it failed"}))
        writer.write(b"0\r\n\r\n")


def _event(received: Received, word: str, reason: str, logprobs: int | None) -> dict[str, object]:
    event: dict[str, object] = {
        "model_name": received.model,
        "model_version": "1",
        "text_output": word,
        "finish_reason": reason,
        "num_input_tokens": received.tokens,
        "num_output_tokens": 1,
        "num_cached_tokens": received.cached,
    }
    if logprobs is not None:
        ranked = {str(n): {"logprob": -0.5 * n, "rank": n, "decoded_token": word + "'" * (n - 1)} for n in (1, 2, 3)}
        event["logprobs"] = msgspec.json.encode([ranked]).decode()
    return event


def _frame(event: dict[str, object]) -> bytes:
    data = b"data: %b\n\n" % msgspec.json.encode(event)
    return b"%x\r\n%b\r\n" % (len(data), data)


async def serve(listener: socket.socket, models: Mapping[str, ModelFile], rates: Rates, log: Path) -> None:
    """Answer on `listener` until cancelled."""
    encode = msgspec.json.Encoder().encode
    with log.open("ab", buffering=0) as file:
        engine = Engine(models, rates, lambda received: _write(file.write, encode(received)))
        server = await asyncio.start_server(Connections(engine).serve, sock=listener)
        await server.serve_forever()


def _write(write: Callable[[bytes], int], line: bytes) -> None:
    write(line + b"\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="A Triton with fixed answers and a prefill linear in tokens.")
    parser.add_argument("--fd", type=int, required=True, help="an inherited listening socket")
    parser.add_argument("--models", type=Path, required=True, help="JSON: model -> context and tokenizer")
    parser.add_argument("--log", type=Path, required=True, help="where the prompts that came are written down")
    parser.add_argument("--base-ms", type=float, default=Rates().base)
    parser.add_argument("--prefill-ms", type=float, default=Rates().prefill, help="for a token that is not cached")
    parser.add_argument("--token-ms", type=float, default=Rates().token)
    parser.add_argument("--no-cache", action="store_true", help="compute every token of every prompt")
    options = parser.parse_args()
    models = msgspec.json.decode(options.models.read_bytes(), type=dict[str, ModelFile])
    rates = Rates(options.base_ms, options.prefill_ms, options.token_ms, not options.no_cache)
    uvloop.run(serve(socket.socket(fileno=options.fd), models, rates, options.log))


if __name__ == "__main__":
    main()
