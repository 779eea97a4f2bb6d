"""Asks the pages inside Airflow's real API server, with its simple auth manager: as nobody, and as its users.

Run in a process of its own, for Airflow reads its options when it is imported; prints JSON.
"""

import json
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.web_demo import RUN_ID

HOME = Path(__file__).parents[1]
USERS = {"vera": "viewer", "ulla": "user"}
FILLED = {"dataset": "birds", "dag_id": "ingest_birds", "path": "index.html", "name": "latest.html"}


def prepare(airflow_home: Path) -> None:
    """Airflow's options and its database."""
    options = {
        "CORE__PLUGINS_FOLDER": str(HOME / "plugins"),
        "CORE__LOAD_EXAMPLES": "False",
        "CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{one}:{USERS[one]}" for one in USERS),
        "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(airflow_home / "passwords.json"),
        "API__SECRET_KEY": "of this test",
        "API_AUTH__JWT_SECRET": "of this test, too, and long enough for its algorithm: 64 bytes or more",
        "LOGGING__LOGGING_LEVEL": "ERROR",
    }
    os.environ["AIRFLOW_HOME"] = str(airflow_home)
    os.environ |= {f"AIRFLOW__{name}": value for name, value in options.items()}
    passwords = {user: f"of {user}" for user in USERS}
    (airflow_home / "passwords.json").write_text(json.dumps(passwords))
    from airflow import settings
    from airflow.models import import_all_models
    from airflow.models.base import Base

    import_all_models()
    Base.metadata.create_all(settings.engine)


def ask() -> dict[str, Any]:
    """What every route of ours answers to whom, and which permission it asks for."""
    from airflow.api_fastapi.app import create_app
    from fastapi.testclient import TestClient

    app = create_app(apps="core")
    pages = next(
        route for route in app.routes if getattr(route, "path", "") == "/sightline"
    ).app.app
    client = TestClient(app, base_url="http://localhost")
    tokens = {"nobody": None, "forger": "not.a.token"}
    for user in USERS:
        login = {"username": user, "password": f"of {user}"}
        tokens[user] = client.post("/auth/token", json=login).json()["access_token"]
    answers = []
    for route in pages.routes:
        path = re.sub(r"{(\w+)(:\w+)?}", lambda one: FILLED.get(one[1], "x"), route.path)
        for method in sorted(route.methods - {"HEAD"}):
            told = {who: status(client, method, path, token) for who, token in tokens.items()}
            answers.append(
                {"route": route.name, "method": method, "permission": asked_by(route), **told}
            )
    return {
        "answers": answers,
        "by_bearer": by_bearer(client, tokens["vera"]),
        "plugin": plugin_of(client, tokens["vera"]),
        "links": [links_of(dag_id) for dag_id in ("ingest_birds", "train_birds", "others")],
    }


def status(client: Any, method: str, path: str, token: str | None) -> int:
    """What a browser with that login is answered."""
    client.cookies.clear()
    if token is not None:
        client.cookies.set("_token", token)
    return int(client.request(method, f"/sightline{path}", json={}).status_code)


def by_bearer(client: Any, token: str | None) -> int:
    """What a program with that token is answered."""
    client.cookies.clear()
    return int(client.get("/sightline/", headers={"Authorization": f"Bearer {token}"}).status_code)


def plugin_of(client: Any, token: str | None) -> dict[str, Any]:
    """The plugin as Airflow's UI is told of it."""
    listed = client.get("/api/v2/plugins", headers={"Authorization": f"Bearer {token}"}).json()
    return next(one for one in listed["plugins"] if one["name"] == "sightline")


def links_of(dag_id: str) -> dict[str, str]:
    """Where the links of a run's tasks lead."""
    from airflow.plugins_manager import get_global_operator_extra_links

    key = SimpleNamespace(dag_id=dag_id, run_id=RUN_ID)
    links = get_global_operator_extra_links()
    return {link.name: link.get_link(None, ti_key=key) for link in links}


def asked_by(route: Any) -> str | None:
    """The permission that stands in a route's dependencies."""
    found = {one.call.__name__ for one in _dependants(route.dependant) if one.call}
    for permission in ("acts", "runs", "sees", "sees_run", "find_visitor"):
        if permission in found:
            return permission
    return None


def _dependants(dependant: Any) -> list[Any]:
    return [dependant, *(inner for one in dependant.dependencies for inner in _dependants(one))]


if __name__ == "__main__":
    prepare(Path(sys.argv[1]))
    print(json.dumps(ask()))  # noqa: T201
