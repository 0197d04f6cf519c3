"""Where Redis is, from CATFLAP_REDIS_URL: one server, a master that Sentinels name, or a Cluster."""

from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

REDIS_PORT = 6379
SENTINEL_PORT = 26379
TLS = ("rediss", "rediss+sentinel", "rediss+cluster")
SHAPES = (
    "redis://[user:password@]host:port/db, rediss:// (TLS), unix:///path?db=0, "
    "redis+sentinel://[user:password@]host:port,host:port/NAME/db or redis+cluster://[user:password@]host:port,host:port"
)


class Address(NamedTuple):
    """One server."""

    path: str | None
    host: str
    port: int
    tls: bool
    username: str | None
    password: str | None
    database: int

    @classmethod
    def parse(cls, url: str) -> "Address":
        """`redis://`, `rediss://` or `unix://`. Raises ValueError with a sentence that follows "CATFLAP_REDIS_URL "."""
        address = parse_redis_url(url)
        if not isinstance(address, Address):
            raise ValueError(f"names more than one server; here it must be one: {SHAPES.rsplit(', ', 1)[0]}")
        return address

    def at(self, host: str, port: int) -> "Address":
        """Another server, that is spoken to in the same way."""
        return self._replace(host=host, port=port)

    def greeting(self) -> list[tuple[str | bytes | int, ...]]:
        """What is said first on a new connection."""
        commands: list[tuple[str | bytes | int, ...]] = []
        if self.password is not None:
            commands.append(("AUTH", *([self.username] if self.username else []), self.password))
        if self.database:
            commands.append(("SELECT", self.database))
        return [*commands, ("PING",)]


class SentinelAddress(NamedTuple):
    """Some Sentinels, and the name of the master that they watch."""

    sentinels: tuple[Address, ...]
    name: str
    master: Address
    """How the master is spoken to; who it is (host, port), the Sentinels say."""


class ClusterAddress(NamedTuple):
    """Some nodes of a Cluster; they know the others."""

    seeds: tuple[Address, ...]


AnyAddress = Address | SentinelAddress | ClusterAddress


def parse_redis_url(url: str) -> AnyAddress:
    """What CATFLAP_REDIS_URL says. Raises ValueError: a sentence that follows "CATFLAP_REDIS_URL ", without the URL,
    which may hold a password."""
    parts, credentials, hosts = _parted(url)
    name, has_password, secret = credentials.partition(":")
    username, password = unquote(name) or None, unquote(secret) if has_password else None
    plain = Address(None, "", 0, parts.scheme in TLS, username, password, 0)
    match parts.scheme:
        case "unix" if parts.path:
            return plain._replace(path=unquote(parts.path), database=_database(_option(parts, "db") or ""))
        case "redis" | "rediss":
            (address,) = _hosts(hosts, plain, REDIS_PORT, most=1)
            return address._replace(database=_database(parts.path.strip("/")))
        case "redis+sentinel" | "rediss+sentinel":
            return _sentinel(parts, hosts, plain)
        case "redis+cluster" | "rediss+cluster":
            if _database(parts.path.strip("/")) != 0:
                raise ValueError("names a database; a Cluster has only 0")
            return ClusterAddress(_hosts(hosts, plain, REDIS_PORT))
        case _:
            raise ValueError(f"must read {SHAPES}")


def _parted(url: str) -> tuple[SplitResult, str, str]:
    """The URL without its middle, the credentials in that, and the hosts. `urlsplit` takes no list of hosts: some
    Pythons (3.11.2 as Debian has it) refuse one with an IPv6 address behind another host."""
    scheme, slashes, rest = url.partition("://")
    middle = rest[: next((at for at, letter in enumerate(rest) if letter in "/?#"), len(rest))]
    credentials, _, hosts = middle.rpartition("@")
    return urlsplit(f"{scheme}{slashes}{rest[len(middle) :]}"), credentials, hosts


def _sentinel(parts: SplitResult, hosts: str, plain: Address) -> SentinelAddress:
    name, _, database = parts.path.strip("/").partition("/")
    if not name:
        raise ValueError("must end in the name of the master that the Sentinels watch: redis+sentinel://host:port/NAME")
    own = plain._replace(username=_option(parts, "sentinel_username"), password=_option(parts, "sentinel_password"))
    return SentinelAddress(
        _hosts(hosts, own, SENTINEL_PORT), unquote(name), plain._replace(database=_database(database))
    )


def _hosts(hosts: str, plain: Address, port: int, most: int = 100) -> tuple[Address, ...]:
    names = hosts.split(",")
    if len(names) > most:
        raise ValueError("names several hosts: write redis+sentinel:// or redis+cluster:// for these")
    return tuple(plain.at(*_host(name, port)) for name in names)


def _host(name: str, port: int) -> tuple[str, int]:
    try:
        found = urlsplit(f"//{name}")
        host, port = found.hostname, found.port or port
    except ValueError:
        host = None
    if not host:
        raise ValueError("must name each server as host:port, the port a number below 65536")
    return host, port


def _option(parts: SplitResult, name: str) -> str | None:
    values: Iterable[str] = parse_qs(parts.query).get(name, [])
    return next(iter(values), None)


def _database(text: str) -> int:
    if text and not text.isdecimal():
        raise ValueError("must end in the number of a database, or in none")
    return int(text or 0)
