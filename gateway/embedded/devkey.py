"""The development key of this machine: made once, kept in the data directory, and no better than any other key."""

import tempfile
from pathlib import Path

from gateway.identity.issue import issue_key
from gateway.identity.keys import matches, parse_token
from gateway.settings import Settings
from gateway.storage.database import Database, connect
from gateway.storage.directory import find_key


async def development_key(settings: Settings) -> str:
    """The kept key, if the database still honours it; else a new one, which is then kept.

    Raises sqlalchemy.exc.SQLAlchemyError, OSError.
    """
    file, pepper = settings.data_dir / "dev-key", settings.pepper_bytes()
    peppers = [pepper, *filter(None, [settings.old_pepper_bytes()])]
    database = connect(settings.database(), timeout_s=settings.database_timeout_s)
    try:
        kept = file.read_text().strip() if file.exists() else ""
        if await _honoured(database, peppers, kept):
            return kept
        issued = await issue_key(database, pepper, organisation="dev", project="dev", principal="dev", plan="unlimited")
    finally:
        await database.close()
    _keep(file, issued.token)
    return issued.token


async def _honoured(database: Database, peppers: list[bytes], token: str) -> bool:
    key_id = parse_token(token)
    if key_id is None:
        return False
    async with database.read() as connection:
        row = await find_key(connection, key_id)
    if row is None or row["revoked_at_ms"] is not None:
        return False
    return any(matches(pepper, token, row["digest"]) for pepper in peppers)


def _keep(file: Path, token: str) -> None:
    """In place of an older one, whole or not at all."""
    with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as draft:  # mode 600
        draft.write(token)
    Path(draft.name).replace(file)
