"""docker-compose.yaml, Dockerfile and scripts: their linters, and what they must not do."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from sightline.airflow_environment import POOLS, airflow_environment, prepare_home
from sightline.settings import load_settings
from tests import compose
from tests.compose import HOME, PROGRAMS

TEXT = (HOME / "docker-compose.yaml").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]
ONE_SHOT = {"prepare"}
# Options of the local Airflow that say where on this machine something is, or that a server needs no more.
LOCAL_ALONE = {
    "AIRFLOW__API__HOST", "AIRFLOW__API__PORT", "AIRFLOW__API__WORKERS",
    "AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL",
    "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH",
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL",
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME",
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL",
}  # fmt: skip
SAME = {
    "AIRFLOW__CORE__LOAD_EXAMPLES", "AIRFLOW__CORE__EXECUTOR", "AIRFLOW__CORE__HOSTNAME_CALLABLE",
    "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS", "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL",
    "AIRFLOW__DAG_PROCESSOR__PRINT_STATS_INTERVAL", "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT",
    "AIRFLOW__OPENLINEAGE__NAMESPACE", "AIRFLOW__OPENLINEAGE__EXECUTE_IN_THREAD",
    "AIRFLOW__OPENLINEAGE__EXECUTION_TIMEOUT",
}  # fmt: skip


def lint(program: str, *arguments: str) -> None:
    """Run a linter of the environment over files of the checkout; it must have nothing to say."""
    done = subprocess.run(
        [str(PROGRAMS / program), *arguments], cwd=HOME, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def secrets() -> dict[str, str]:
    """A .env by the script that people use."""
    made = subprocess.run([HOME / "deploy/make_env.sh"], capture_output=True, text=True, check=True)
    lines = [line for line in made.stdout.splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def test_the_compose_file_meets_its_schema() -> None:
    lint("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yaml")


def test_the_dockerfile_passes_hadolint() -> None:
    lint("hadolint", "Dockerfile")


def test_the_scripts_pass_shellcheck() -> None:
    scripts = [str(path.relative_to(HOME)) for path in sorted((HOME / "deploy").glob("*.sh"))]
    lint("shellcheck", *scripts, "scripts/environment.sh", ".ci/run")


def test_make_env_fills_every_secret_that_the_compose_file_asks_for() -> None:
    one, other = secrets(), secrets()
    asked = set(re.findall(r"\$\{(\w+):\?", TEXT))
    assert asked == set(one)
    assert all(one[name] != other[name] and len(one[name]) >= 32 for name in one)
    compose.read_services(one)
    with pytest.raises(KeyError, match="make_env"):
        compose.read_services({})


def test_no_secret_stands_in_the_compose_file() -> None:
    for name, spec in SERVICES.items():
        for variable, value in spec.get("environment", {}).items():
            if re.search("PASSWORD(?!S_FILE)|SECRET|FERNET|ACCESS_KEY", variable):
                assert str(value).startswith("${"), (name, variable)


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_service_is_hardened_restarted_and_watched(name: str) -> None:
    spec = SERVICES[name]
    assert spec["cap_drop"] == ["ALL"]
    assert spec["security_opt"] == ["no-new-privileges:true"]
    assert spec["init"] is True
    assert not spec.get("privileged")
    assert all(str(port).startswith("127.0.0.1:") for port in spec.get("ports", []))
    assert ":latest" not in spec["image"].removeprefix("sightline:${SIGHTLINE_VERSION:-latest}")
    if not spec["image"].startswith("sightline:"):  # ours says USER in the Dockerfile
        assert spec["user"] not in ("root", "0")
    if name in ONE_SHOT:
        assert spec["restart"] == "no"
        return
    assert spec["restart"] == "unless-stopped"
    assert "healthcheck" in spec
    assert "stop_grace_period" in spec


def test_our_image_runs_as_nobody_in_particular() -> None:
    users = re.findall(r"^USER (\S+)$", (HOME / "Dockerfile").read_text(), re.MULTILINE)
    assert users[-1:] == ["10001"]


def test_secrets_are_given_only_to_those_who_need_them() -> None:
    knows = {
        "AIRFLOW__CORE__FERNET_KEY": {one for one in SERVICES if one.startswith("airflow-")},
        "SIGHTLINE_ADMIN_PASSWORD": {"airflow-api-server"},
        "SIGHTLINE_POSTGRES_PASSWORD": set(),
    }
    for variable, expected in knows.items():
        found = {name for name, spec in SERVICES.items() if variable in spec.get("environment", {})}
        assert found - ONE_SHOT == expected, variable


def test_the_airflow_of_a_server_has_the_options_of_the_local_one(own_places: Path) -> None:
    settings = load_settings()
    prepare_home(settings)
    local = {
        name: value
        for name, value in airflow_environment(settings, 8080).items()
        if name.startswith("AIRFLOW__")
    }
    served = SERVICES["airflow-scheduler"]["environment"]
    assert set(local) - set(served) <= LOCAL_ALONE
    assert {name: str(served[name]) for name in SAME} == {name: local[name] for name in SAME}


def test_the_pools_are_those_of_the_local_airflow() -> None:
    pools = json.loads((HOME / "deploy" / "pools.json").read_text())
    assert {name: pool["slots"] for name, pool in pools.items()} == POOLS


def test_only_what_the_dockerfile_copies_can_reach_the_image() -> None:
    copied = re.findall(
        r"^COPY (?!--from)(.+) \S+$", (HOME / "Dockerfile").read_text(), re.MULTILINE
    )
    sources = {word.split("/")[0] for line in copied for word in line.split()}
    allowed = {
        line.removeprefix("!")
        for line in (HOME / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    assert (HOME / ".dockerignore").read_text().splitlines()[1] == "*"
    assert sources == allowed


def test_what_the_image_s_own_scripts_name_is_in_the_image() -> None:
    dockerfile = (HOME / "Dockerfile").read_text()
    for script in ("entry.sh", "prepare.sh"):
        named = re.findall(r"deploy/[\w.]+", (HOME / "deploy" / script).read_text())
        assert [one for one in [f"deploy/{script}", *named] if one not in dockerfile] == []


def test_interpolation_is_compose_s() -> None:
    values = {"a": "${NAME}", "b": ["${NONE:-http://x:1}", "${NAME:-y}"], "c": 3}
    found = compose.interpolated(values, {"NAME": "n"})
    assert found == {"a": "n", "b": ["http://x:1", "n"], "c": 3}


def test_the_health_check_of_a_container_imports_nothing_slow() -> None:
    code = "import sys, sightline.health; print(sorted(m for m in sys.modules if 'sightline' in m))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=HOME / "include",
    )
    assert done.stdout.strip() == "['sightline', 'sightline.health']"
