"""How things stand: which rules are in force by the last revision, and whether the directory would load. For people; a
gateway may still be on its last good ruleset, which its metrics tell."""

import asyncio
from pathlib import Path

import msgspec

from gateway.policy.loader import Policy
from gateway.policy.problem import PolicyError
from gateway.policy.ruleset import Ruleset
from gateway.rules.directory import FOLDER, read_directory
from gateway.rules.load import load, load_examined
from gateway.rules.revisions import current
from gateway.storage.database import Database
from gateway.storage.policies import Revision, files_of, last_revision


class Rule(msgspec.Struct, frozen=True):
    """One policy in a list."""

    id: str
    description: str
    mode: str
    priority: int
    covert: bool
    contains: bool
    percent: float
    file: str


class Standing(msgspec.Struct, frozen=True):
    """`ruleset`: None where what should be in force does not load. `problem`: of the directory, None where it loads."""

    revision: Revision
    ruleset: Ruleset | None
    folder: Path
    problem: str | None

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The highest priority first."""
        return () if self.ruleset is None else tuple(_rule(policy) for policy in self.ruleset.policies)

    def told(self) -> dict[str, object]:
        """As JSON says it."""
        revision = self.revision
        named = f"revision {revision.number}" + (f", {revision.source}" if revision.source else "")
        return {
            "source": f"directory {self.folder / FOLDER}" if revision.version is None else named,
            "version": revision.version or (self.ruleset and self.ruleset.version),
            "revision": revision,
            "containment": revision.containment,
            "rules": self.rules,
            "directory": {"path": str(self.folder / FOLDER), "loads": self.problem is None, "problem": self.problem},
        }


async def standing(database: Database, folder: Path) -> Standing:
    """`folder`: the directory of policies, here. Raises SQLAlchemyError."""
    async with database.read() as connection:
        last = await last_revision(connection)
        files = None if last is None or last.version is None else await files_of(connection, last.version)
    revision = current([] if last is None else [last])
    ruleset, problem = await asyncio.to_thread(_directory, folder)
    if revision.version is not None:
        try:
            ruleset = None if files is None else await asyncio.to_thread(load, files)
        except PolicyError:
            ruleset = None
    return Standing(revision, ruleset, folder, problem)


def _directory(folder: Path) -> tuple[Ruleset | None, str | None]:
    try:
        return load_examined(read_directory(folder)), None
    except PolicyError as problem:
        return None, str(problem)


def _rule(policy: Policy) -> Rule:
    spec, metadata = policy.file.spec, policy.file.metadata
    return Rule(
        id=metadata.id,
        description=metadata.description,
        mode=spec.mode,
        priority=spec.priority,
        covert=spec.covert,
        contains=policy.contains,
        percent=spec.rollout.percent,
        file=policy.document.file,
    )
