"""A real PostgreSQL on a unix socket, in a folder of its own."""

import itertools
import os
import shutil
import subprocess
from pathlib import Path

import psycopg

DEBIAN = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


class PostgresServer:
    """One cluster in `folder`. PostgreSQL refuses to run as root, so root runs it as the user postgres."""

    def __init__(self, binaries: Path, folder: Path, *, settings: tuple[str, ...] = ()) -> None:
        self._binaries = binaries
        self._folder = folder
        self._settings = settings
        self._names = itertools.count()
        self.user = "postgres" if os.geteuid() == 0 else None

    def create(self) -> None:
        if self.user is not None:
            shutil.chown(self._folder, self.user)
        data = str(self._folder / "data")
        self._run("initdb", "-D", data, "-U", "catflap", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C")

    def start(self) -> None:
        """Returns when it accepts connections."""
        options = ["-k", str(self._folder), "-c", "listen_addresses=", "-c", "fsync=off"]
        for setting in self._settings:
            options += ["-c", setting]
        log = str(self._folder / "log")
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-w", "-l", log, "-o", " ".join(options), "start")

    def stop(self) -> None:
        """At once, as a crash would; the next start recovers."""
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-w", "-m", "immediate", "stop")

    def url(self, database: str) -> str:
        return f"postgresql://catflap@/{database}?host={self._folder}"

    def fresh(self) -> str:
        """The URL of a new, empty database."""
        name = f"test_{next(self._names)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"create database {name}".encode())
        return self.url(name)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._binaries / program), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, user=self.user, cwd=self._folder)


def find_postgres() -> Path | None:
    """The folder of initdb and pg_ctl, None where there is none."""
    found = shutil.which("pg_ctl")
    folder = DEBIAN[-1] if DEBIAN else (Path(found).resolve().parent if found else None)
    return folder if folder is not None and (folder / "initdb").exists() else None
