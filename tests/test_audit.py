"""Secrets in what git tracks, and the audit of packages where an index has no advisories."""

import subprocess
from pathlib import Path

from scripts import audit

# Put together here, or this file would be a finding of its own.
TOKEN = "ghp_" + "a1B2" * 9
KEY = "-----BEGIN RSA " + "PRIVATE KEY-----"


def test_a_secret_is_found_and_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "settings.py").write_text(f'token = "{TOKEN}"\n')
    (tmp_path / "tests" / "key.pem").write_text(f"\n{KEY}\n")
    (tmp_path / "tests" / "made_up.py").write_text('password = "made-up-for-a-test"\n')
    found = audit.find_secrets(tmp_path, ["settings.py", "tests/key.pem", "tests/made_up.py"])
    assert "settings.py:1 GitHub Token" in found
    assert "tests/key.pem:2 Private Key" in found
    assert not any("made_up" in one or TOKEN in one for one in found)


def test_env_files_are_never_tracked() -> None:
    ignored = ["git", "check-ignore", ".env", "connections.env"]
    listed = subprocess.run(ignored, cwd=audit.HOME, capture_output=True, text=True, check=True)
    assert listed.stdout.split() == [".env", "connections.env"]


def test_an_answer_that_is_none_is_not_taken_for_a_clean_one(tmp_path: Path) -> None:
    assert audit.find_vulnerabilities(tmp_path / "missing.txt") is None
