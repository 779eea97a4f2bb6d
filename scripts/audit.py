"""Looks for secrets in what git tracks and for known vulnerabilities of the locked packages: `make audit`.

Needs no more than the checkout and the package index. An index without advisories answers as if nothing were
known, so a release with a known one is asked for first: where it is not found, nothing was looked for, and
that is said.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from detect_secrets.core.secrets_collection import SecretsCollection
from detect_secrets.settings import transient_settings

HOME = Path(__file__).parents[1]
LOCKS = ("requirements.txt", "requirements-dev.txt")
VULNERABLE = "jinja2==3.1.2"  # CVE-2024-22195
# Lock files are versions and nothing else; of tests and docs, only what has a provider's own form counts, for
# they are full of made-up passwords.
PROVIDERS = (
    "ArtifactoryDetector", "AWSKeyDetector", "AzureStorageKeyDetector", "CloudantDetector",
    "DiscordBotTokenDetector", "GitHubTokenDetector", "GitLabTokenDetector", "JwtTokenDetector",
    "MailchimpDetector", "NpmDetector", "OpenAIDetector", "PrivateKeyDetector", "PypiTokenDetector",
    "SendGridDetector", "SlackDetector", "SquareOAuthDetector", "StripeDetector",
    "TelegramBotTokenDetector", "TwilioKeyDetector",
)  # fmt: skip
GUESSES = ("BasicAuthDetector", "KeywordDetector")
LOOSE = ("tests/", "docs/", "README.md", "benchmarks/", "deploy/example.")


def find_secrets(folder: Path, names: Iterable[str]) -> list[str]:
    """`file:line kind` of everything that looks like a secret; never the secret."""
    read = [name for name in names if name not in LOCKS and (folder / name).is_file()]
    loose = {name for name in read if name.startswith(LOOSE)}
    return [
        *_scan(folder, sorted(loose), PROVIDERS),
        *_scan(folder, sorted(set(read) - loose), PROVIDERS + GUESSES),
    ]


def _scan(folder: Path, names: list[str], kinds: tuple[str, ...]) -> list[str]:
    secrets = SecretsCollection(root=str(folder))
    with transient_settings({"plugins_used": [{"name": kind} for kind in kinds]}):
        for name in names:
            secrets.scan_file(name)
    return [f"{name}:{secret.line_number} {secret.type}" for name, secret in secrets]


def tracked_files(folder: Path) -> list[str]:
    """What git tracks."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=folder, capture_output=True, check=True)
    return [name for name in listed.stdout.decode().split("\0") if name]


def find_vulnerabilities(lock: Path) -> list[str] | None:
    """`package version: advisory, mended in ...` of a lock's packages; None where nobody could be asked."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(lock), "--no-deps"]
    command += ["--disable-pip", "--format=json", "--progress-spinner=off", "--timeout=30"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        return None
    return [
        f"{package['name']} {package['version']}: {one['id']}, "
        f"mended in {', '.join(one['fix_versions']) or 'no release yet'}"
        for package in packages
        for one in package.get("vulns", [])
    ]


def advisories_are_in_reach() -> bool:
    """Whether the index tells of a vulnerability that everybody knows."""
    with tempfile.TemporaryDirectory() as folder:
        lock = Path(folder) / "requirements.txt"
        lock.write_text(f"{VULNERABLE}\n")
        return bool(find_vulnerabilities(lock))


def main() -> int:
    """Say what was found; 1 where anything was."""
    problems = find_secrets(HOME, names := tracked_files(HOME))
    say(f"secrets: {len(problems)} found in {len(names)} files")
    if not advisories_are_in_reach():
        say("vulnerabilities: NOT LOOKED FOR, this package index has no advisories (pypi.org has)")
    else:
        known = sum((find_vulnerabilities(HOME / lock) or [] for lock in LOCKS), [])
        say(f"vulnerabilities: {len(known)} known of the packages in {' and '.join(LOCKS)}")
        problems += known
    for problem in problems:
        say(f"  {problem}")
    return int(bool(problems))


def say(text: str) -> None:
    """A line on the console."""
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
