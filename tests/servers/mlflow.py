"""A tracking server that answers as MLflow's REST API does, in memory."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from tests.conftest import web_server
from tests.servers.answering import JsonHandler

MOST_ENTITIES = {"metrics": 1000, "params": 100, "tags": 100}  # of one log-batch, as MLflow has it
NAME = re.compile(r"[\w./ -]{1,250}")


@dataclass
class MlflowServer:
    """What was logged, and how it fails: a status for all answers from the nth call on."""

    address: str = ""
    experiments: dict[str, str] = field(default_factory=dict)  # name: id
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    calls: list[tuple[str, str | None, str]] = field(default_factory=list)  # path, login, body
    status: int = 200
    fails_from: int = 0


class Refused(Exception):
    """A request that MLflow would not take."""


@contextmanager
def mlflow_server() -> Iterator[MlflowServer]:
    """An empty server on a free port."""
    state = MlflowServer()

    class Handler(_Handler):
        served = state

    with web_server(Handler) as state.address:
        yield state


class _Handler(JsonHandler):
    served: ClassVar[MlflowServer]

    def do_GET(self) -> None:  # noqa: N802  (the library's name)
        self._serve("")

    def do_POST(self) -> None:  # noqa: N802
        self._serve(self.rfile.read(int(self.headers["Content-Length"])).decode())

    def _serve(self, body: str) -> None:
        state, parts = self.served, urlsplit(self.path)
        state.calls.append((self.path, self.headers.get("Authorization"), body))
        if state.status != 200 and len(state.calls) > state.fails_from:
            self.answer_json({"error_code": "INTERNAL_ERROR"}, state.status)
            return
        name = parts.path.removeprefix("/api/2.0/mlflow/").replace("/", "_").replace("-", "_")
        asked = json.loads(body) if body else {k: v[0] for k, v in parse_qs(parts.query).items()}
        try:
            self.answer_json(*getattr(self, name)(asked))
        except Refused as refused:
            self.answer_json(
                {"error_code": "INVALID_PARAMETER_VALUE", "message": str(refused)}, 400
            )

    def experiments_get_by_name(self, asked: dict[str, Any]) -> tuple[dict[str, Any], int]:
        found = self.served.experiments.get(asked["experiment_name"])
        if found is None:
            return {"error_code": "RESOURCE_DOES_NOT_EXIST"}, 404
        return {"experiment": {"experiment_id": found}}, 200

    def experiments_create(self, asked: dict[str, Any]) -> tuple[dict[str, Any], int]:
        if asked["name"] in self.served.experiments:
            raise Refused("RESOURCE_ALREADY_EXISTS")
        made = str(len(self.served.experiments) + 1)
        self.served.experiments[asked["name"]] = made
        return {"experiment_id": made}, 200

    def runs_create(self, asked: dict[str, Any]) -> tuple[dict[str, Any], int]:
        run_id = f"run{len(self.served.runs)}"
        tags = {tag["key"]: tag["value"] for tag in asked["tags"]}
        run = {"experiment": asked["experiment_id"], "tags": tags, "params": {}, "metrics": {}}
        self.served.runs[run_id] = run | {"name": asked["run_name"], "status": "RUNNING"}
        return {"run": {"info": {"run_id": run_id}}}, 200

    def runs_search(self, asked: dict[str, Any]) -> tuple[dict[str, Any], int]:
        wanted = re.findall(r"tags\.`([\w.]+)` = '([^']*)'", asked["filter"])
        found = [
            {"info": {"run_id": run_id}}
            for run_id, run in self.served.runs.items()
            if run["experiment"] in asked["experiment_ids"]
            and all(run["tags"].get(key) == value for key, value in wanted)
        ]
        return ({"runs": found[: asked["max_results"]]} if found else {}), 200

    def runs_log_batch(self, asked: dict[str, Any]) -> tuple[dict[str, Any], int]:
        run = self.served.runs[asked["run_id"]]
        for kind, most in MOST_ENTITIES.items():
            entries = asked.get(kind, [])
            if len(entries) > most or not all(NAME.fullmatch(one["key"]) for one in entries):
                raise Refused(kind)
        for one in asked.get("params", []):
            if run["params"].setdefault(one["key"], one["value"]) != one["value"]:
                raise Refused("a parameter never changes")
        for one in asked.get("metrics", []):
            points = run["metrics"].setdefault(one["key"], set())
            points.add((one["step"], one["value"], one["timestamp"]))
        return {}, 200

    def runs_set_tag(self, asked: dict[str, Any]) -> tuple[dict[str, Any], int]:
        self.served.runs[asked["run_id"]]["tags"][asked["key"]] = asked["value"]
        return {}, 200

    def runs_update(self, asked: dict[str, Any]) -> tuple[dict[str, Any], int]:
        self.served.runs[asked["run_id"]]["status"] = asked["status"]
        return {}, 200
