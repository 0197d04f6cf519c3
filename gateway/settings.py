"""Every setting of Catflap, read once from the environment (`CATFLAP_*`) and passed down from the composition root.

README.md and docs/settings.md list them; a test holds the list complete.
"""

import hashlib
import os
import secrets
import tempfile
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from gateway.identity.address import Networks, parse_networks
from gateway.quota.address import parse_redis_url

UNIX_PATH_LIMIT = 100  # sun_path holds 108 bytes, a few of which redis-server uses itself


class Settings(BaseSettings):
    """Names are the environment variables less their prefix. Times carry their unit in the name."""

    model_config = SettingsConfigDict(
        env_prefix="CATFLAP_",
        extra="ignore",
        env_ignore_empty=True,
        hide_input_in_errors=True,  # it may be a secret
    )

    data_dir: Path = Field(
        default=Path("var"), description="Where this machine keeps its database, keys, sockets and logs."
    )
    database_url: str | None = Field(default=None, description="SQLAlchemy URL; default: SQLite in the data directory.")
    redis_url: str | None = Field(
        default=None,
        description="redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://; default: the embedded Redis.",
    )
    policies: Path = Field(default=Path("policies"), description="Policy files: `rules/`, `plans/`, `issuers.yaml`.")
    fleet: Path = Field(default=Path("triton_models/fleet.demo.yaml"), description="Which models are served where.")
    pepper: SecretStr | None = Field(
        default=None,
        min_length=16,
        description="Key of the digests of API keys; default: made once and kept in the data directory.",
    )
    pepper_old: SecretStr | None = Field(
        default=None,
        min_length=16,
        description="The pepper before, while keys move over from it (docs/operations.md).",
    )
    admin_token: SecretStr | None = Field(
        default=None,
        min_length=32,
        description="The admin API's bearer token; default: made once and kept in the data directory.",
    )
    evidence_key: SecretStr | None = Field(
        default=None,
        min_length=16,
        description="Key that evidence is encrypted with; default: made once and kept in the data directory.",
    )
    evidence_key_old: SecretStr | None = Field(
        default=None, min_length=16, description="The evidence key before: what it encrypted can still be read."
    )
    evidence_days: int = Field(default=30, ge=0, le=3650, description="How long evidence is kept (0: none is).")
    trusted_proxies: str | None = Field(
        default=None,
        description="Networks (CIDR, between commas) of proxies whose `x-forwarded-for` is believed; default: none.",
    )
    host: str = Field(default="127.0.0.1", description="Address of the data plane.")
    port: int = Field(default=8080, ge=1, le=65535, description="Port of the data plane.")
    admin_host: str = Field(default="127.0.0.1", description="Address of the admin plane.")
    admin_port: int = Field(default=8081, ge=1, le=65535, description="Port of the admin plane.")
    workers: int = Field(default=1, ge=1, le=256, description="Processes of the data plane.")
    metrics_host: str = Field(default="127.0.0.1", description="Address of all the Prometheus ports.")
    metrics_port: int = Field(default=9464, ge=0, le=65535, description="Prometheus port of the data plane (0: none).")
    admin_metrics_port: int = Field(
        default=9465, ge=0, le=65535, description="Prometheus port of the admin plane (0: none)."
    )
    work_metrics_port: int = Field(
        default=9466, ge=0, le=65535, description="Prometheus port of the background readers (0: none)."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="debug, info, warning or error."
    )
    access_log: bool = Field(default=True, description="One JSON line a request, without content.")
    partitions: int = Field(
        default=64, ge=1, le=4096, description="Redis partitions; never changed on a running system."
    )
    redis_timeout_ms: int = Field(default=100, ge=1, description="The longest that a request waits for Redis.")
    redis_away: Literal["closed", "local"] = Field(
        default="closed",
        description="While Redis is away: closed (503) or local (each gateway enforces its part of each limit).",
    )
    database_timeout_s: float = Field(
        default=5.0, gt=0, description="The longest that a request waits for the database."
    )
    directory_cache_s: float = Field(
        default=60.0, gt=0, description="How long a key is known without asking the database."
    )
    directory_cache_size: int = Field(default=100_000, ge=1, description="How many keys a process remembers.")
    max_body_bytes: int = Field(default=8 << 20, ge=1024, description="The largest request body.")
    body_timeout_s: float = Field(default=30.0, gt=0, description="The longest wait for a request's body.")
    connect_timeout_s: float = Field(default=2.0, gt=0, description="The longest wait for a connection to Triton.")
    first_token_timeout_s: float = Field(default=120.0, gt=0, description="The longest wait for Triton's first token.")
    token_timeout_s: float = Field(default=60.0, gt=0, description="The longest wait between two of Triton's tokens.")
    request_timeout_s: float = Field(default=600.0, gt=0, description="The longest life of one request.")
    drain_timeout_s: float = Field(default=30.0, gt=0, description="How long a stopping gateway lets streams finish.")

    @field_validator("redis_url")
    @classmethod
    def _is_an_address(cls, url: str | None) -> str | None:
        if url is not None:
            parse_redis_url(url)
        return url

    def database(self) -> str:
        """The database's URL, with the default filled in."""
        return self.database_url or f"sqlite+aiosqlite:///{self.data_dir.resolve() / 'catflap.db'}"

    def redis(self) -> str:
        """Redis's URL, with the embedded one filled in."""
        return self.redis_url or f"unix://{self.embedded_redis_socket()}"

    def embedded_redis_socket(self) -> Path:
        """The embedded Redis's socket: in the data directory, or, where that path is too long for a socket, in a
        private directory whose name every process of this data directory computes alike."""
        socket = self.data_dir.resolve() / "redis" / "redis.sock"
        if len(os.fsencode(socket)) <= UNIX_PATH_LIMIT:
            return socket
        digest = hashlib.sha256(os.fsencode(socket)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"catflap-{os.getuid()}-{digest}" / "redis.sock"

    def pepper_bytes(self) -> bytes:
        """The pepper; without `CATFLAP_PEPPER`, one that is made once and kept, mode 600, in the data directory."""
        if self.pepper is not None:
            return self.pepper.get_secret_value().encode()
        return keep_secret(self.data_dir / "pepper", secrets.token_hex(32)).encode()

    def old_pepper_bytes(self) -> bytes | None:
        """The pepper before, while both live."""
        return None if self.pepper_old is None else self.pepper_old.get_secret_value().encode()

    def admin_token_bytes(self) -> bytes:
        """The admin API's token; without `CATFLAP_ADMIN_TOKEN`, one that is made once and kept, mode 600, in the data
        directory."""
        if self.admin_token is not None:
            return self.admin_token.get_secret_value().encode()
        return keep_secret(self.data_dir / "admin-token", secrets.token_hex(32)).encode()

    def evidence_secrets(self) -> tuple[str, ...]:
        """The secrets that evidence may be encrypted with, the one for what is new first."""
        if self.evidence_key is None:
            first = keep_secret(self.data_dir / "evidence-key", secrets.token_hex(32))
        else:
            first = self.evidence_key.get_secret_value()
        return (first,) if self.evidence_key_old is None else (first, self.evidence_key_old.get_secret_value())

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, text: str | None) -> str | None:
        parse_networks(text)
        return text

    def trusted_networks(self) -> Networks:
        """The networks of the proxies whose `x-forwarded-for` is believed."""
        return parse_networks(self.trusted_proxies)


def keep_secret(path: Path, fresh: str) -> str:
    """The secret in the file `path`; `fresh`, written there with mode 600, if there is none yet.

    Two processes may race here: a link to a finished file decides, and both read the winner's.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=path.parent)  # mode 600
        with os.fdopen(handle, "w") as file:
            file.write(fresh)
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            Path(draft).unlink()
    return path.read_text().strip()
