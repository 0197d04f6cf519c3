"""A thread that hands answers over, so that a transport that is slow, or a server that is busy, never stalls a step."""

import queue
import threading
from collections.abc import Callable


class Sender:
    """Runs what it is given, in order, in a thread of its own."""

    def __init__(self, on_death: Callable[[], None] = lambda: None) -> None:
        """`on_death` is called when something that it was given fails."""
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

    def put(self, work: Callable[[], None]) -> None:
        """Do this after all that was put before. From any thread, never blocks."""
        self._work.put(work)

    def _live(self) -> None:
        ended = False
        try:
            while (work := self._work.get()) is not None:
                work()
            ended = True
        finally:
            if not ended:
                self._on_death()
