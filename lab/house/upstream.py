"""A Triton that does what each request's text tells it, as a process of its own: `python -m lab.house.upstream --fd N`.

vLLM's tensor contract over `generate_stream`, two models. A text that begins with an Order in JSON is answered by it.
Any other text gets `max_tokens` tokens: from `mock` at once, from `mock-stream` the first at once and the rest after
`--hold-ms`. A prompt has as many tokens as bytes.

`--log FILE` gets one line of JSON for each generation that has ended (`Truth`): what it really generated, which is more
than anybody was told when the gateway hung up.
"""

import argparse
import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec
import uvloop

from lab.bench.triton_answers import control_answers, json_answer

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
LONGEST_S = 600.0

End = Literal["stop", "error", "hang", "drop", "refuse"]


class Order(msgspec.Struct, omit_defaults=True):
    """What becomes of a generation: `pieces` of `tokens` tokens each, the first after `wait_ms`, the others every
    `gap_ms`; then its `end`. `error`: Triton says that it failed. `hang`: nothing comes any more. `drop`: the
    connection closes. `refuse`: status 500 before the first piece."""

    id: str = ""
    pieces: int = 1
    tokens: int = 1
    wait_ms: int = 0
    gap_ms: int = 0
    end: End = "stop"


class Truth(msgspec.Struct, frozen=True):
    """A generation that has ended: what was generated of it."""

    id: str
    prompt_tokens: int
    tokens: int
    whole: bool
    """It came to its own end, and was not hung up on."""


class _Request(msgspec.Struct):
    text_input: str
    sampling_parameters: str = "{}"


class _Sampling(msgspec.Struct):
    max_tokens: int = 1


_decode = msgspec.json.Decoder(_Request).decode
_sampling = msgspec.json.Decoder(_Sampling).decode
_order = msgspec.json.Decoder(Order).decode
encode_truth = msgspec.json.Encoder().encode


def order_of(text: str, max_tokens: int, *, held_ms: int = 0) -> Order:
    """What the text asks for."""
    if text.startswith("{"):
        return _order(text[: text.index("}") + 1])
    return Order(pieces=1, tokens=max_tokens, wait_ms=0) if not held_ms else Order(pieces=2, gap_ms=held_ms, tokens=0)


class Generation:
    """One answer on one connection."""

    def __init__(self, writer: asyncio.StreamWriter, request: bytes, *, held_ms: int) -> None:
        asked = _decode(request)
        self._writer = writer
        self._max_tokens = _sampling(asked.sampling_parameters).max_tokens
        self._prompt_tokens = len(asked.text_input.encode())
        self._held = held_ms and not asked.text_input.startswith("{")
        self.order = order_of(asked.text_input, self._max_tokens, held_ms=held_ms)
        self._tokens = 0
        self._whole = False

    @property
    def truth(self) -> Truth:
        return Truth(self.order.id, self._prompt_tokens, self._tokens, self._whole)

    async def run(self, gone: asyncio.Event) -> bool:
        """Generate until the end, or until the gateway is gone; whether the connection may be used again."""
        order = self.order
        if order.end == "refuse":
            self._writer.write(json_answer("500 Internal Server Error", {"error": "no"}))
            return self._ended()
        self._writer.write(HEAD)
        for piece in range(order.pieces):
            if await _left(gone, order.gap_ms if piece else order.wait_ms):
                return False
            last = piece + 1 == order.pieces and order.end == "stop"
            self._say(self._share(piece), "stop" if last else "None")
        if order.end == "hang":
            await _left(gone, LONGEST_S * 1000)
            return False
        if order.end == "drop":
            self._writer.transport.abort()
            return self._ended() and False
        if order.end == "error":
            self._frame({"error": "the engine has failed"})
        self._writer.write(b"0\r\n\r\n")
        return self._ended()

    def _share(self, piece: int) -> int:
        """Tokens of a piece; of a held answer one now, the others at its end."""
        if self._held:
            return self._max_tokens - 1 if piece else 1
        return self.order.tokens

    def _say(self, tokens: int, finish: str) -> None:
        self._tokens += tokens
        text = " mew" * tokens
        self._frame(
            {
                "model_name": "mock",
                "text_output": text,
                "finish_reason": finish,
                "num_input_tokens": self._prompt_tokens,
                "num_output_tokens": tokens,
            }
        )

    def _frame(self, event: dict[str, object]) -> None:
        data = b"data: %b\n\n" % msgspec.json.encode(event)
        self._writer.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _ended(self) -> bool:
        self._whole = True
        return True


async def _left(gone: asyncio.Event, ms: float) -> bool:
    """Whether the other side leaves within so many milliseconds."""
    if ms > 0 and not gone.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(gone.wait(), ms / 1000)
    return gone.is_set()


class Upstream:
    """All connections."""

    def __init__(self, *, hold_ms: int, note: Callable[[Truth], None]) -> None:
        self._hold_ms = hold_ms
        self._note = note
        self._control = control_answers()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, request after request."""
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self._one(reader, writer):
                pass
        writer.transport.abort()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        method, path, _ = head.split(b" ", 2)
        at = head.lower().find(b"content-length:")
        body = await reader.readexactly(int(head[at + 15 :].split(b"\r\n", 1)[0])) if at >= 0 else b""
        if method != b"POST":
            writer.write(self._control.get(path, json_answer("404 Not Found", {"error": "not found"})))
            return True
        held_ms = self._hold_ms if path.startswith(b"/v2/models/mock-stream/") else 0
        generation = Generation(writer, body, held_ms=held_ms)
        gone = asyncio.Event()
        watch = asyncio.create_task(_watch(reader, gone))
        try:
            return await generation.run(gone)
        finally:
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch
            self._note(generation.truth)


async def _watch(reader: asyncio.StreamReader, gone: asyncio.Event) -> None:
    """Nobody pipelines: what comes in the middle of an answer is the end of the connection."""
    with suppress(ConnectionError):
        await reader.read(1)
    gone.set()


async def serve(listener: socket.socket, hold_ms: int, log: Path | None) -> None:
    """Answer on `listener` until cancelled."""
    file = log.open("ab", buffering=0) if log else None

    def note(truth: Truth) -> None:
        if file is not None and truth.id:
            file.write(encode_truth(truth) + b"\n")

    server = await asyncio.start_server(Upstream(hold_ms=hold_ms, note=note).serve, sock=listener)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description="A Triton that does as it is told.")
    parser.add_argument("--fd", type=int, required=True, help="an inherited listening socket")
    parser.add_argument("--hold-ms", type=int, default=1000, help="how long an answer of mock-stream takes")
    parser.add_argument("--log", type=Path, help="where what was generated is written down")
    options = parser.parse_args()
    uvloop.run(serve(socket.socket(fileno=options.fd), options.hold_ms, options.log))


if __name__ == "__main__":
    main()
