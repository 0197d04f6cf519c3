"""Policy files of a git revision: what is committed, whatever lies in the working tree."""

import os
import subprocess
from pathlib import Path
from typing import NamedTuple

from gateway.policy.document import MAX_BYTES
from gateway.policy.problem import PolicyError
from gateway.rules.directory import ENDINGS, FOLDER, MAX_ENTRIES, Gathered
from gateway.storage.policies import Files

TIMEOUT_S = 30.0
"""For each call of git."""
FILE_MODES = ("100644", "100755")


class Committed(NamedTuple):
    """Files by their names from the policies' folder, and the commit that they are of."""

    files: Files
    commit: str


class _Blob(NamedTuple):
    name: str
    mode: str
    object: str
    size: int


def read_revision(folder: Path, revision: str, repository: Path | None = None) -> Committed:
    """The policy files under `folder`/rules of this revision. `folder` lies in a repository, or is a path in
    `repository`. Blocks. Raises PolicyError."""
    place, under = (folder, Path(FOLDER)) if repository is None else (repository, folder / FOLDER)
    where = f"{under.as_posix()} of {revision}"
    if not place.is_dir():
        raise PolicyError(str(place), 0, "there is no such directory; say with --repo where the repository is.")
    commit = _git(place, "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}").decode().strip()
    listing = _git(place, "ls-tree", "-r", "-z", "-l", commit, f"./{under.as_posix()}")
    gathered = Gathered(where)
    blobs = [blob for blob in _blobs(listing, where) if _wanted(blob, under)]
    for blob in blobs:
        if blob.mode not in FILE_MODES:
            raise PolicyError(blob.name, 0, "this is a link; in a revision, a policy is a file.")
        if blob.size > MAX_BYTES:
            raise PolicyError(blob.name, 1, f"the file has {blob.size:,} bytes; a policy may have {MAX_BYTES:,}.")
    for blob, data in zip(blobs, _contents(place, blobs), strict=True):
        gathered.add((Path(FOLDER) / Path(blob.name).relative_to(under)).as_posix(), data)
    return Committed(gathered.files(), commit)


def _wanted(blob: _Blob, under: Path) -> bool:
    parts = Path(blob.name).relative_to(under).parts
    return blob.name.endswith(ENDINGS) and not any(part.startswith(".") for part in parts)


def _blobs(listing: bytes, where: str) -> list[_Blob]:
    """From `mode SP type SP object SP size TAB name NUL`."""
    try:
        entries = [entry.split("\t", 1) for entry in listing.decode().split("\0") if entry]
    except UnicodeDecodeError as problem:
        raise PolicyError(where, 0, "the name of a file there is not text in UTF-8; give it another.") from problem
    if len(entries) > MAX_ENTRIES:
        raise PolicyError(where, 0, f"there are more than {MAX_ENTRIES:,} files.")
    found = [(head.split(), name) for head, name in entries]
    return [_Blob(name, head[0], head[2], int(head[3])) for head, name in found if head[1] == "blob"]


def _contents(place: Path, blobs: list[_Blob]) -> list[bytes]:
    asked = "".join(f"{blob.object}\n" for blob in blobs).encode()
    told = _git(place, "cat-file", "--batch", given=asked) if blobs else b""
    contents, at = [], 0
    for blob in blobs:
        start = told.index(b"\n", at) + 1  # behind `object SP type SP size`
        contents.append(told[start : start + blob.size])
        at = start + blob.size + 1
    return contents


def _git(place: Path, *arguments: str, given: bytes = b"") -> bytes:
    """What git prints. It asks nobody for anything and takes no locks."""
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["git", "-C", str(place), *arguments],
            input=given,
            capture_output=True,
            timeout=TIMEOUT_S,
            env=environment,
            check=False,
        )
    except FileNotFoundError as problem:
        raise PolicyError("git", 0, "the program `git` is not here; install it, or apply a directory.") from problem
    except subprocess.TimeoutExpired as problem:
        raise PolicyError("git", 0, f"it has not answered within {TIMEOUT_S:g} s; try again.") from problem
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["it says nothing"]
        said = lines[-1].removeprefix("fatal: ")[:300]
        if "single revision" in said:
            said = f"there is no commit {arguments[-1].removesuffix('^{commit}')!r} in {place}"
        raise PolicyError("git", 0, f"{said}.")
    return done.stdout
