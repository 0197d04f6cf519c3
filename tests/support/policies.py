"""Policy files whose examples hold, and what holds them in force, for tests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gateway.rules.inforce import InForce
from gateway.storage.database import Database


def policy_text(name: str = "cat", *, flag: str = "seen", state: str = "contained", match: str | None = None) -> str:
    """A policy that flags principals of this state."""
    condition = match or f'principal.state == "{state}"'
    return f"""apiVersion: catflap/v1
kind: Policy
metadata: {{id: {name}, description: For a test.}}
spec:
  mode: enforce
  covert: true
  match: |
    {condition}
  actions: [{{flag: {flag}}}]
examples:
  - {{given: {{principal: {{state: {state}}}}}, expect: {{matched: true, flags: [{flag}]}}}}
  - {{given: {{}}, expect: {{matched: false}}}}
"""


def write_policy(folder: Path, name: str = "cat", **more: str) -> Path:
    """A file of its own under `folder`/rules."""
    path = folder / "rules" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(policy_text(name, **more))
    return path


def flags_of(inforce: InForce) -> set[str]:
    """What the policies in force flag: tells one ruleset from another."""
    return {flag for policy in inforce.ruleset.policies for flag in policy.actions.flags}


@asynccontextmanager
async def in_force(
    database: Database, policies: Path, redis_url: str | None, data_dir: Path, **times: float
) -> AsyncIterator[InForce]:
    """Started and kept, as in a gateway; quick to look at the directory."""
    held = InForce(database, policies, redis_url, data_dir, **{"watch_s": 0.02, **times})
    await held.start()
    keeping = asyncio.create_task(held.keep())
    try:
        yield held
    finally:
        assert not keeping.done(), "it keeps for ever, whatever happens"
        keeping.cancel()
        await asyncio.wait({keeping})
