"""Settings that are more than a value."""

import stat
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.settings import Settings


def test_secrets_that_are_not_set_are_made_once_for_their_owner_alone(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "var")
    made = {"pepper": settings.pepper_bytes(), "admin-token": settings.admin_token_bytes()}
    assert len(set(made.values())) == 2
    again = Settings(data_dir=tmp_path / "var")
    assert (again.pepper_bytes(), again.admin_token_bytes()) == (made["pepper"], made["admin-token"])
    for name, secret in made.items():
        file = tmp_path / "var" / name
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert len(secret) == 64


def test_secrets_that_are_set_are_taken_as_they_are_and_written_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PEPPER", "PEPPER_OLD", "ADMIN_TOKEN"):
        monkeypatch.setenv(f"CATFLAP_{name}", f"{name} made up for this test only")
    settings = Settings(data_dir=tmp_path / "var")
    assert settings.pepper_bytes() == b"PEPPER made up for this test only"
    assert settings.old_pepper_bytes() == b"PEPPER_OLD made up for this test only"
    assert settings.admin_token_bytes() == b"ADMIN_TOKEN made up for this test only"
    assert not (tmp_path / "var").exists()
    assert "made up" not in repr(settings)


@pytest.mark.parametrize("field", ["pepper", "pepper_old", "admin_token"])
def test_a_secret_that_is_too_short_is_refused_and_not_repeated(field: str) -> None:
    given: dict[str, Any] = {field: "planted"}
    with pytest.raises(ValidationError) as refused:
        Settings(**given)
    assert "planted" not in str(refused.value)


def test_trusted_proxies_are_networks() -> None:
    assert Settings().trusted_networks() == ()
    given = Settings(trusted_proxies="10.0.0.0/8, 2001:db8::1")
    assert [str(network) for network in given.trusted_networks()] == ["10.0.0.0/8", "2001:db8::1/128"]
    with pytest.raises(ValidationError, match=r"10\.0\.0\.0/8"):
        Settings(trusted_proxies="proxy.example")
