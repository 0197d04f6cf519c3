"""A thread that hands answers over, so that a transport that is slow, or a server that is busy, never stalls a step.

Whatever a request's own parts raise, its sink or its sampler, ends that request with an error and no other.
"""

import logging
import queue
import threading
import traceback
from collections.abc import Callable
from functools import partial

from .requests import Piece, PromptTokens, Request

LOG = logging.getLogger(__name__)


class Sender:
    """Calls the sinks, in order, in a thread of its own. The methods may be called from any thread and never block."""

    def __init__(self, on_death: Callable[[], None] = lambda: None) -> None:
        """`on_death` is called when the thread ends by a fault that no request can answer for."""
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._on_death = on_death
        self._thread = threading.Thread(target=self._live, name="sender", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after what it has been given already."""
        self._work.put(None)
        self._thread.join(timeout=5)

    def send(self, request: Request, pieces: list[Piece], last: bool) -> None:
        """One step of the request's answer, for Sink.send."""
        prompt = PromptTokens(request.prompt_tokens, request.cached_tokens)
        self._put(request, partial(request.sink.send, prompt, pieces, last), closes=last)

    def drop(self, request: Request) -> None:
        """The request was cancelled, for Sink.drop."""
        self._put(request, request.sink.drop, closes=True)

    def fail(self, request: Request, problem: Exception | None = None) -> None:
        """For Sink.fail, behind what was sent before; `problem` is what the engine met in serving it, if it did."""
        if problem is not None:
            _log(problem)
        self._work.put(partial(self._end, request))

    def _put(self, request: Request, work: Callable[[], None], closes: bool) -> None:
        self._work.put(partial(self._hand_over, request, work, closes))

    def _live(self) -> None:
        ended = False
        try:
            while (work := self._work.get()) is not None:
                work()
            ended = True
        finally:
            if not ended:
                self._on_death()

    def _hand_over(self, request: Request, work: Callable[[], None], closes: bool) -> None:
        """One that fails before its last piece is left to the engine, which lets go of it and then calls `fail`."""
        if not request.failed:
            try:
                work()
            except Exception as problem:  # noqa: BLE001 - a sink is not ours: the others must not suffer for it
                request.failed = True
                _log(problem)
        if request.failed and closes:
            self._end(request)

    def _end(self, request: Request) -> None:
        if request.ended:
            return
        request.failed = request.ended = True
        try:
            request.sink.fail()
        except Exception as problem:  # noqa: BLE001 - nobody is left to be told
            _log(problem)


def _log(problem: Exception) -> None:
    """What went wrong and where, without the exception's words: they may hold some of the prompt."""
    place = "".join(traceback.format_tb(problem.__traceback__)).rstrip()
    LOG.error("a request failed with %s\n%s", type(problem).__name__, place)
