"""Logins from the variables in which Airflow looks for its connections."""

import pytest

from sightline.connections import from_environment
from sightline.errors import ConfigError
from sightline.sources import Credential


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('{"conn_type": "generic", "login": "me", "password": "k/e%y"}', Credential("me", "k/e%y")),
        ('{"password": "key"}', Credential("", "key")),
        ("generic://me:k%2Fe%25y@", Credential("me", "k/e%y")),
        ("generic://:key@host:80/schema", Credential("", "key")),
        ("", None),
    ],
)
def test_json_and_uris_are_read(
    monkeypatch: pytest.MonkeyPatch, value: str, expected: Credential | None
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_KAGGLE_MINE", value)
    assert from_environment("kaggle_mine") == expected


def test_broken_json_is_refused_without_its_content(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_X", '{"password": "secret')
    with pytest.raises(ConfigError) as caught:
        from_environment("x")
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_credential_never_prints_its_password() -> None:
    assert "secret" not in repr(Credential("me", "secret"))
