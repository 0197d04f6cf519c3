"""A Triton whose every answer a test writes: `behave` gets the generations, `compute` the tensors; the slow questions
answer themselves."""

import asyncio
import json
import struct
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from gateway.fleet.adapters.vllm import INPUTS, OUTPUTS

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"


def event(text: str, *, finish: str = "None", prompt_tokens: int = 5, tokens: int = 1, **more: Any) -> dict[str, Any]:
    """A response of the vLLM backend."""
    return {
        "model_name": "demo",
        "text_output": text,
        "finish_reason": finish,
        "num_input_tokens": prompt_tokens,
        "num_output_tokens": tokens,
        **more,
    }


class Generation:
    """One generation, asked for by the gateway and answered by the test."""

    def __init__(self, body: bytes, head: str, writer: asyncio.StreamWriter) -> None:
        self.request: dict[str, Any] = json.loads(body)
        self.parameters: dict[str, Any] = json.loads(self.request["sampling_parameters"])
        self.head = head
        self.gone = asyncio.Event()
        """The gateway has hung up."""
        self.writer = writer
        self._begun = False

    async def raw(self, data: bytes) -> None:
        self.writer.write(data)
        with suppress(ConnectionError):
            await self.writer.drain()

    async def send(self, *events: Mapping[str, Any]) -> None:
        """These responses, in one write."""
        if not self._begun:
            self._begun = True
            self.writer.write(HEAD)
        data = b"".join(b"data: %b\n\n" % json.dumps(one).encode() for one in events)
        await self.raw(b"%x\r\n%b\r\n" % (len(data), data))

    async def say(self, *words: str, finish: str = "stop") -> None:
        """A whole answer, one token a word."""
        for word in words:
            await self.send(event(word))
        await self.send(event("", finish=finish, tokens=0))
        await self.end()

    async def end(self) -> None:
        await self.raw(b"0\r\n\r\n")

    async def refuse(self, status: int, body: bytes = b'{"error":"insides of Triton"}') -> None:
        await self.raw(b"HTTP/1.1 %d No\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))

    def hang_up(self) -> None:
        self.writer.transport.abort()


class Inference:
    """One request for tensors, asked for by the gateway and answered by the test."""

    def __init__(self, body: bytes, head: str, writer: asyncio.StreamWriter) -> None:
        length = next(int(line[32:]) for line in head.lower().splitlines() if line.startswith("inference-header"))
        self.request: dict[str, Any] = json.loads(body[:length])
        self.data = body[length:]
        self.head = head
        self.gone = asyncio.Event()
        """The gateway has hung up."""
        self.writer = writer

    async def raw(self, data: bytes) -> None:
        self.writer.write(data)
        with suppress(ConnectionError):
            await self.writer.drain()

    async def tell(self, *outputs: tuple[str, str, list[int], bytes], **more: Any) -> None:
        """These tensors: name, datatype, shape, raw data."""
        told = [
            {"name": name, "datatype": kind, "shape": shape, "parameters": {"binary_data_size": len(data)}}
            for name, kind, shape, data in outputs
        ]
        header = json.dumps({"model_name": "insides", "model_version": "1", "outputs": told, **more}).encode()
        body = header + b"".join(data for *_, data in outputs)
        await self.raw(
            b"HTTP/1.1 200 OK\r\nInference-Header-Content-Length: %d\r\nContent-Length: %d\r\n\r\n%b"
            % (len(header), len(body), body)
        )

    async def refuse(self, status: int, body: bytes = b'{"error":"insides of Triton"}') -> None:
        await self.raw(b"HTTP/1.1 %d No\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))

    def hang_up(self) -> None:
        self.writer.transport.abort()


Computation = Callable[[Inference], Awaitable[None]]


async def doubled(inference: Inference) -> None:
    """The model `doubler`."""
    numbers = struct.unpack(f"<{len(inference.data) // 4}f", inference.data)
    twice = struct.pack(f"<{len(numbers)}f", *(2 * number for number in numbers))
    await inference.tell(("twice", "FP32", [len(numbers)], twice))


DOUBLER = {
    "name": "doubler",
    "inputs": [{"name": "number", "datatype": "FP32", "shape": ["-1"]}],
    "outputs": [{"name": "twice", "datatype": "FP32", "shape": [-1]}],
}
"""Its metadata; as a configuration it says that the model has no batches and is not decoupled."""
Behaviour = Callable[[Generation], Awaitable[None]]


async def polite(generation: Generation) -> None:
    """What Triton does when nothing is wrong."""
    await generation.say("Hello", " world")


class FakeTriton:
    """A server on a free port of loopback. `generations` keeps all that it was asked for."""

    def __init__(self) -> None:
        self.behave: Behaviour = polite
        self.ready = True
        self.metadata: object = {
            "name": "demo",
            "inputs": [{"name": name, "datatype": kind} for name, kind in INPUTS.items()],
            "outputs": [{"name": name, "datatype": kind} for name, kind in OUTPUTS.items()],
        }
        self.compute: Computation = doubled
        self.generations: list[Generation] = []
        self.inferences: list[Inference] = []
        self.connections = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    async def start(self) -> None:
        """Listen; after `stop`, on the same port again."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """As if killed: nobody listens, and all connections are gone."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.transport.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def reset(self) -> None:
        self.behave, self.compute, self.ready = polite, doubled, True
        self.generations.clear()
        self.inferences.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.transport.abort()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        length = next((int(line[15:]) for line in head.lower().splitlines() if line.startswith("content-length:")), 0)
        body = await reader.readexactly(length)
        if head.startswith("POST"):
            if head.split(" ")[1].endswith("/infer"):
                inference = Inference(body, head, writer)
                self.inferences.append(inference)
                await self._answer(inference.gone, self.compute(inference), reader)
            else:
                generation = Generation(body, head, writer)
                self.generations.append(generation)
                await self._answer(generation.gone, self.behave(generation), reader)
            return not writer.transport.is_closing()
        writer.write(self._told(head.split(" ")[1]))
        return True

    @staticmethod
    async def _answer(gone: asyncio.Event, work: Awaitable[None], reader: asyncio.StreamReader) -> None:
        async def watch() -> None:
            with suppress(ConnectionError):
                await reader.read(1)
            gone.set()

        watcher = asyncio.create_task(watch())
        try:
            await work
        finally:
            watcher.cancel()

    def _told(self, path: str) -> bytes:
        """The answer to a slow question, as `gateway.fleet.health` asks it."""
        body: object = {}
        status = 200
        if path.endswith("/ready"):
            status = 200 if self.ready else 400
        elif "/doubler" in path:
            body = DOUBLER
        elif path.endswith("/config"):
            body = {"name": "demo", "max_batch_size": 0, "model_transaction_policy": {"decoupled": True}}
        else:
            body = self.metadata
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return b"HTTP/1.1 %d OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
            status, len(data), data,
        )  # fmt: skip
