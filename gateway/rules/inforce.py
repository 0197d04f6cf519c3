"""The ruleset in force in this process: what the last revision says, or the directory where none names a ruleset.

Whatever goes wrong changes nothing: the last good ruleset stays, the problem is told once. Files are read and compiled
on a thread; a request reads two attributes.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import structlog
from sqlalchemy.exc import SQLAlchemyError

from gateway.policy.problem import PolicyError
from gateway.policy.ruleset import Ruleset, no_rules
from gateway.rules import metrics
from gateway.rules.aside import Aside
from gateway.rules.channel import listen
from gateway.rules.directory import Mark, Unreadable, mark_of, read_steady
from gateway.rules.lastgood import LastGood, keep, recall
from gateway.rules.load import Loaded, Loading, load, load_aside, load_examined
from gateway.rules.revisions import current
from gateway.rules.troubles import Part, Troubles
from gateway.storage.database import Database
from gateway.storage.policies import Files, Revision, archive, files_of, last_revision
from gateway.telemetry import clock

WATCH_S = 0.25
"""The directory is looked at so often; it is read when two looks saw the same change."""
POLL_S = 3.0
"""The database is asked so often, told or not."""
TIMEOUT_S = 5.0
AGAIN_S = 1.0
LEAST_S = 0.05
"""So long passes between two looks, however often a gateway is told."""
MOST_UNARCHIVED = 16

log = structlog.get_logger()


class InForce:
    """`ruleset` and `containment` are read on every request. They change between two turns of the event loop, both at
    once."""

    def __init__(
        self,
        database: Database,
        policies: Path,
        redis_url: str | None,
        data_dir: Path,
        *,
        watch_s: float = WATCH_S,
        poll_s: float = POLL_S,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """`policies`: the directory that has `rules/` in it. Without `redis_url` changes are seen by asking the
        database alone. `timeout_s`: for the database, Redis, and the disk, each."""
        self.ruleset: Ruleset = no_rules()
        self.containment = True
        self.troubles = Troubles()
        self._database, self._policies, self._redis_url, self._data_dir = database, policies, redis_url, data_dir
        self._watch_s, self._poll_s, self._timeout_s = watch_s, poll_s, timeout_s
        self._wanted: Revision | None = None  # None: the database has not said yet
        self._files: Files | None = None  # of `ruleset`; None: nothing was ever loaded
        self._tried: Mark | str | None = None  # what was loaded last, or failed to and would again
        self._tried_well = False
        self._seen: Mark | None = None  # the directory at the last look
        self._unarchived: dict[str, Files] = {}
        self._shown: str | None = None
        self._policies_disk, self._data_disk = Aside(timeout_s), Aside(timeout_s)
        self._ask_now, self._bring_now = asyncio.Event(), asyncio.Event()

    async def start(self) -> None:
        """The first load: what should be in force, else what was last on this machine, else nothing. Never raises;
        each wait is bounded."""
        await self._guarded("database", self._ask)
        await self._guarded("rules", lambda: self._bring(at_once=True))
        if self._files is None:
            await self._guarded("last_good", self._recall)
        if self._files is None:
            log.error("policies_none", effect="every request is served as usual", see="catflap policy list")
        self._show()

    async def keep(self) -> None:
        """For ever, in the background: listen, ask, watch, swap."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._always("database", self._ask, self._ask_now, self._poll_s))
            tasks.create_task(self._always("rules", self._bring, self._bring_now, self._watch_s))
            if self._redis_url is not None:
                url = self._redis_url
                tasks.create_task(self._always("redis", lambda: self._listen(url), asyncio.Event(), AGAIN_S))

    async def _always(
        self, part: Part, step: Callable[[], Awaitable[None]], now: asyncio.Event, pause_s: float
    ) -> None:
        """`step`, again and again: after the pause, or at once where `now` is set."""
        while True:
            now.clear()
            await self._guarded(part, step)
            await asyncio.sleep(min(LEAST_S, pause_s))
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):  # wait_for can lose a cancellation that comes at the same time
                    await now.wait()

    async def _guarded(self, part: Part, step: Callable[[], Awaitable[None]]) -> None:
        """An error that nobody thought of is a problem like any other, and ends nothing."""
        task = asyncio.ensure_future(step())
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait({task})
            raise
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.troubles.failed(part, type(error).__name__)

    async def _listen(self, url: str) -> None:
        def away(error: str | None) -> None:
            if error is None:
                self.troubles.over("redis")
            else:
                self.troubles.failed("redis", error)

        await listen(url, self._timeout_s, self._ask_now.set, away)

    async def _ask(self) -> None:
        """What should be in force. The switch holds at once, whatever becomes of the ruleset."""
        try:
            async with asyncio.timeout(self._timeout_s):
                wanted = await self._last_revision()
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            self.troubles.failed("database", type(error).__name__)
            return
        self.troubles.over("database")
        if self._wanted is None or wanted.version != self._wanted.version:
            self._bring_now.set()
        self._wanted = wanted
        if wanted.containment is not self.containment:
            self.containment = wanted.containment
            log.warning("containment_switched", on=wanted.containment, revision=wanted.number)
            self._show()
            await self._keep_good()
        await self._archive()

    async def _last_revision(self) -> Revision:
        if self._database.missing():
            raise FileNotFoundError
        async with self._database.read() as connection:
            last = await last_revision(connection)
        return current([] if last is None else [last])

    async def _bring(self, *, at_once: bool = False) -> None:
        """Load what should be in force, if that is not what is or has failed already. `at_once`: do not wait until the
        directory has settled."""
        wanted = self._wanted
        if wanted is None:
            return
        try:
            if wanted.version is None:
                await self._bring_directory(at_once)
            elif wanted.version != self._tried:
                await self._bring_revision(wanted.version)
        except Unreadable as problem:  # tried again at the next look
            self.troubles.policies(problem)
        except (SQLAlchemyError, OSError, TimeoutError, msgspec.DecodeError) as error:
            self.troubles.failed("rules", type(error).__name__)

    async def _bring_directory(self, at_once: bool) -> None:
        mark = await self._policies_disk.run(lambda: mark_of(self._policies))
        settled, self._seen = at_once or mark == self._seen, mark
        if mark == self._tried and self._tried_well:
            self.troubles.over("rules")
        if not settled or mark == self._tried:
            return
        reading = await self._policies_disk.run(lambda: read_steady(self._policies))
        if isinstance(reading.problem, Unreadable):
            raise reading.problem
        await self._take(None, reading.mark, reading.files, load_examined, reading.problem)

    async def _bring_revision(self, version: str) -> None:
        if version == self.ruleset.version:
            self._tried, self._tried_well = version, True
            self.troubles.over("rules")
            return
        async with asyncio.timeout(self._timeout_s), self._database.read() as connection:
            files = await files_of(connection, version)
        if files is None:
            self.troubles.policies(PolicyError(f"ruleset {version}", 0, "its files are not in the database."))
            return
        await self._take(version, version, files, load)

    async def _take(
        self,
        version: str | None,
        mark: Mark | str,
        files: Files,
        loading: Loading,
        problem: PolicyError | None = None,
    ) -> None:
        """Compile on a thread and swap, unless something else should be in force by then."""
        ruleset = None
        try:
            before = Loaded(self.ruleset, self._files or {})
            ruleset = None if problem else await asyncio.to_thread(load_aside, loading, files, before)
        except PolicyError as wrong:
            problem = wrong
        except (ValueError, RecursionError, MemoryError) as error:
            problem = PolicyError("the policies", 0, f"they cannot be loaded ({type(error).__name__}).")
        if self._wanted is None or self._wanted.version != version:
            return
        self._tried, self._tried_well = mark, ruleset is not None
        if problem is not None:
            self.troubles.policies(problem)
        if ruleset is None:
            return
        self.troubles.over("rules")
        await self._swap(ruleset, files, "directory" if version is None else f"revision {self._wanted.number}")

    async def _swap(self, ruleset: Ruleset, files: Files, source: str) -> None:
        before, self.ruleset, self._files = self.ruleset, ruleset, files
        if ruleset.version != before.version:
            log.info("policies_in_force", version=ruleset.version, rules=len(ruleset.rules), source=source)
            if len(self._unarchived) < MOST_UNARCHIVED:
                self._unarchived[ruleset.version] = files
                self._ask_now.set()
        self._show()
        await self._keep_good()

    async def _archive(self) -> None:
        """So that what this ruleset decides can be explained when its files are gone."""
        try:
            for version, files in list(self._unarchived.items()):
                async with asyncio.timeout(self._timeout_s), self._database.write() as connection:
                    await archive(connection, version, files, clock.now_ms())
                del self._unarchived[version]
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            self.troubles.failed("archive", type(error).__name__)
            return
        self.troubles.over("archive")

    async def _keep_good(self) -> None:
        if self._files is None:
            return
        good = LastGood(self.ruleset.version, self.containment, self._files)
        try:
            await self._data_disk.run(lambda: keep(self._data_dir, good))
        except (OSError, TimeoutError) as error:
            self.troubles.failed("last_good", type(error).__name__)
            return
        self.troubles.over("last_good")

    async def _recall(self) -> None:
        """What was last in force on this machine. What the database has said of the switch goes before it."""
        try:
            good = await self._data_disk.run(lambda: recall(self._data_dir))
            if good is None:
                return
            self.ruleset = await asyncio.to_thread(load, good.files)
        except (OSError, TimeoutError, PolicyError, msgspec.MsgspecError) as error:
            self.troubles.failed("last_good", type(error).__name__)
            return
        self._files = good.files
        if self._wanted is None:
            self.containment = good.containment
        log.warning("policies_last_good", version=self.ruleset.version, rules=len(self.ruleset.rules))

    def _show(self) -> None:
        self.troubles.show()
        metrics.containment.set(int(self.containment))
        if self._shown is not None:
            metrics.version.labels(self._shown).set(0)
        self._shown = self.ruleset.version
        metrics.version.labels(self._shown).set(1)
