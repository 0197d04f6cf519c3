"""Policy files of a directory: `rules/**/*.yaml` and `.yml` as name -> text, bounded in number and size.

Names that begin with a dot are passed over (editors, git, and the folders that Kubernetes keeps behind its links), and
links to folders are not followed.
"""

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from gateway.policy.document import MAX_BYTES
from gateway.policy.problem import PolicyError
from gateway.policy.ruleset import MAX_POLICIES
from gateway.storage.policies import Files

FOLDER = "rules"
ENDINGS = (".yaml", ".yml")
MAX_ENTRIES = 10_000
"""Files and folders that are looked at."""
MAX_TOTAL = 4 * 2**20
"""Bytes of all files of a ruleset."""
TRIES = 5
PAUSE_S = 0.05

Mark = tuple[object, ...]
"""What tells one state of a directory from another, without reading its files."""


class Unreadable(PolicyError):
    """The disk does not give it now; it may a moment later, without anything having been changed."""


class Reading(NamedTuple):
    """A directory as it was found: its files, or why it has none."""

    mark: Mark
    files: Files
    problem: PolicyError | None


class Gathered:
    """Files, added one by one within the bounds."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._total = 0
        self._files: dict[str, str] = {}

    def add(self, name: str, data: bytes, size: int | None = None) -> None:
        """`size`: of the file, where `data` is only its beginning. Raises PolicyError."""
        size = len(data) if size is None else size
        if size > MAX_BYTES:
            line = data.count(b"\n", 0, MAX_BYTES) + 1
            raise PolicyError(name, line, f"the file has {size:,} bytes; a policy may have {MAX_BYTES:,}.")
        self._total += size
        if len(self._files) >= MAX_POLICIES:
            raise PolicyError(self._where, 0, f"there are more than {MAX_POLICIES:,} policies; take some out.")
        if self._total > MAX_TOTAL:
            sentence = f"the files have more than {MAX_TOTAL:,} bytes together; take some out."
            raise PolicyError(self._where, 0, sentence)
        try:
            self._files[name] = data.decode()
        except UnicodeDecodeError as problem:
            line = data.count(b"\n", 0, problem.start) + 1
            raise PolicyError(name, line, "the file is not text in UTF-8.") from problem

    def files(self) -> Files:
        """All of them. Raises PolicyError where there are none."""
        if not self._files:
            sentence = "there is no policy file (*.yaml) here; to have none in force, switch one off (mode: off)."
            raise PolicyError(self._where, 0, sentence)
        return self._files


def read_directory(folder: Path) -> Files:
    """The policy files under `folder`/rules, by their names from `folder`. Raises PolicyError."""
    gathered = Gathered(str(folder / FOLDER))
    for name, path in _policy_files(folder):
        try:
            found = path.stat()
            if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for
                raise PolicyError(name, 0, "this is not a file; take it out, or give it another name.")
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError as problem:
            raise Unreadable(name, 0, f"the file cannot be read ({problem.strerror}).") from problem
        gathered.add(name, data, max(found.st_size, len(data)))
    return gathered.files()


def gathered(where: str, texts: Files) -> Files:
    """The same bounds for files that somebody sent. Raises PolicyError."""
    bundle = Gathered(where)
    for name, text in sorted(texts.items()):
        bundle.add(_utf8(name), text.encode(errors="surrogatepass"))
    return bundle.files()


def read_steady(folder: Path) -> Reading:
    """The same, not while somebody is writing there, as far as that can be seen. For a thread: it may wait a little."""
    for attempt in range(TRIES):
        time.sleep(PAUSE_S * attempt)
        before = mark_of(folder)
        files: Files = {}
        problem: PolicyError | None = None
        try:
            files = read_directory(folder)
        except PolicyError as wrong:
            problem = wrong
        if mark_of(folder) == before:
            break
    return Reading(before, files, problem)


def mark_of(folder: Path) -> Mark:
    """Names, sizes, times and inodes. Raises nothing: what cannot be looked at is a state too."""
    try:
        return tuple(_look(name, path) for name, path in _policy_files(folder))
    except PolicyError as problem:
        return (str(problem),)


def _look(name: str, path: Path) -> tuple[object, ...]:
    try:
        found = path.stat()
    except OSError as problem:
        return (name, problem.errno)
    return (name, found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)


def _policy_files(folder: Path) -> Iterator[tuple[str, Path]]:
    top = folder / FOLDER
    if not top.is_dir():
        sentence = "there is no such directory; policy files are looked for in the folder `rules` of CATFLAP_POLICIES."
        raise PolicyError(str(top), 0, sentence)
    seen = 0
    for place, folders, names in os.walk(top, onerror=_unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        seen += len(folders) + len(names)
        if seen > MAX_ENTRIES:
            raise PolicyError(str(top), 0, f"there are more than {MAX_ENTRIES:,} files and folders in it.")
        for name in sorted(names):
            if name.endswith(ENDINGS) and not name.startswith("."):
                path = Path(place, name)
                yield _utf8(path.relative_to(folder).as_posix()), path


def _utf8(name: str) -> str:
    if not name.isprintable():  # as are bytes that are not UTF-8
        raise PolicyError(ascii(name), 0, "the name of this file is not printable text in UTF-8; give it another.")
    return name


def _unreadable(problem: OSError) -> None:
    raise Unreadable(str(problem.filename), 0, f"the directory cannot be read ({problem.strerror}).") from problem
