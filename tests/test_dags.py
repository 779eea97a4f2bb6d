"""The DAG folder: parsed by a real DagBag, for every dataset file, quickly and without heavy packages."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sightline.spark_workers import TORCH_WORKERS

HOME = Path(__file__).parents[1]
HEAVY = ("torch", "torchvision", "timm", "pyspark", "great_expectations", "sklearn")
INGEST = [
    "preflight",
    "list_images",
    "validate_manifest",
    "fetch_images",
    "validate_images",
    "inspect_images",
    "featurize",
    "measure_drift",
    "validate_features",
]
TRAIN = [
    "wait_for_ingests",
    "plan",
    "split",
    "audit_labels",
    "reduce",
    "train",
    "evaluate",
    "gate",
    "report",
    "publish",
]

PREDICT = ["choose_images", "score_new", "predict"]

# In a process of its own: what another test has imported must not count.
PARSE = f"""
import json, sys
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.encoders import encode_timetable
from airflow.serialization.serialized_objects import DagSerialization

bag = DagBag({str(HOME / "dags")!r})
dags = {{
    dag.dag_id: {{
        "tasks": [task.task_id for task in dag.topological_sort()],
        "documented": all(task.doc_md or task.doc for task in dag.tasks),
        "retries": [task.retries for task in dag.tasks],
        "pools": {{task.task_id: task.pool for task in dag.tasks}},
        "max_active_runs": dag.max_active_runs,
        "timetable": type(dag.timetable).__name__,
        "schedule": encode_timetable(dag.timetable),
        "partitions": [getattr(task, "env_vars", None) for task in dag.tasks],
        "tags": sorted(dag.tags),
        "code": {{task.task_id: task.code for task in dag.tasks if hasattr(task, "code")}},
        "conf": {{task.task_id: task.conf for task in dag.tasks if getattr(task, "conf", None)}},
        "owners": {{task.task_id: task.owner for task in dag.tasks}},
        "operators": {{task.task_id: type(task).__name__ for task in dag.tasks}},
        "serialized": len(DagSerialization.to_dict(dag)["dag"]["tasks"]),
    }}
    for dag in bag.dags.values()
}}
heavy = [name for name in {HEAVY!r} if name in sys.modules]
print(json.dumps({{"dags": dags, "errors": bag.import_errors, "heavy": heavy}}))
"""


def parse(places: Path) -> dict[str, Any]:
    """Parse the DAG folder as Airflow does."""
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(places / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
    }
    done = subprocess.run(
        [sys.executable, "-c", PARSE], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


OWN = {
    "asked": "source: {type: digits}\ngate: {approval: true}\n",
    "tuned": "source: {type: digits}\ntrain: null\nfine_tune: {}\n",
    "manual": "source: {type: digits}\nschedule: null\n",
    "on_emr": "source: {type: digits}\nfine_tune: {}\ncompute: emr\n",
    "on_emr_serverless": "source: {type: digits}\nfine_tune: {}\ncompute: emr_serverless\n",
    "good": "source: {type: digits}\n",
    "good.expectations": "manifest: []\n",
}


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The DAG folder with the shipped dataset files, parsed once."""
    with pytest.MonkeyPatch.context() as here:
        here.delenv("SIGHTLINE_DATASETS", raising=False)
        return parse(tmp_path_factory.mktemp("shipped"))


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The DAG folder with OWN, parsed once."""
    places = tmp_path_factory.mktemp("own")
    for name, text in OWN.items():
        (places / f"{name}.yaml").write_text(text)
    with pytest.MonkeyPatch.context() as here:
        here.setenv("SIGHTLINE_DATASETS", str(places))
        parsed = parse(places)
    assert parsed["errors"] == {}
    return parsed


def test_the_shipped_datasets_become_three_dags_each(shipped: dict[str, Any]) -> None:
    parsed = shipped
    assert parsed["errors"] == {}
    assert {"ingest_digits", "train_digits", "ingest_flowers", "train_flowers"} <= set(
        parsed["dags"]
    )
    ingest, train = parsed["dags"]["ingest_digits"], parsed["dags"]["train_digits"]
    assert ingest["tasks"] == INGEST
    assert train["tasks"] == TRAIN
    assert ingest["documented"]
    assert train["documented"]
    assert min(ingest["retries"]) >= 2
    assert ingest["max_active_runs"] == 4
    assert train["max_active_runs"] == 1
    assert ingest["timetable"] == "CronPartitionTimetable"
    assert ingest["schedule"]["__var"]["run_offset"] == -1  # tonight: the day that has ended
    mapper = train["schedule"]["__var"]["default_partition_mapper"]
    assert mapper["__var"] == {"downstream_key": "all"}
    assert train["timetable"] == "PartitionedAssetTimetable"
    on_spark = {
        task for task, pool in {**ingest["pools"], **train["pools"]}.items() if "spark" in pool
    }
    assert on_spark == {"fetch_images", "featurize", "reduce", "train"}
    code = {**ingest["code"], **train["code"]}
    assert set(code) == {*INGEST, *TRAIN} - {"wait_for_ingests"}
    assert all((HOME / path).exists() for path in code.values())
    assert code["featurize"] == "spark_jobs/featurize.py"
    assert ingest["conf"]["featurize"] == TORCH_WORKERS  # with which test_backbone_suite runs it


def test_sixty_dataset_files_parse_without_heavy_packages(own_places: Path) -> None:
    for number in range(60):
        (own_places / "datasets" / f"set_{number}.yaml").write_text("source: {type: digits}\n")
    parsed = parse(own_places)
    assert parsed["errors"] == {}
    assert len(parsed["dags"]) == 183  # and the scaling study, the take-down, the maintenance
    assert parsed["heavy"] == []


def test_a_broken_dataset_file_harms_no_other_dataset(own_places: Path) -> None:
    (own_places / "datasets" / "good.yaml").write_text(
        "owner: team:vision\nsource: {type: digits}\n"
    )
    (own_places / "datasets" / "bad.yaml").write_text("source: {type: digits}\nbackbon: {}\n")
    parsed = parse(own_places)
    assert set(parsed["dags"]["ingest_good"]["owners"].values()) == {"team:vision"}
    assert parsed["errors"] == {}
    assert set(parsed["dags"]) == {
        "ingest_good",
        "train_good",
        "predict_good",
        "scaling_study",
        "take_down",
        "maintenance",
        "ingest_bad",
    }
    assert "broken" in parsed["dags"]["ingest_bad"]["tags"]


def test_on_emr_a_dataset_has_the_same_tasks_and_waits_for_no_spark_of_this_machine(
    own: dict[str, Any],
) -> None:
    parsed = own
    assert parsed["heavy"] == []
    for where, operator in (("emr", "EmrClusterStage"), ("emr_serverless", "EmrServerlessStage")):
        ingest, train = parsed["dags"][f"ingest_on_{where}"], parsed["dags"][f"train_on_{where}"]
        assert ingest["tasks"] == INGEST
        assert ingest["serialized"] == len(INGEST)
        operators = {**ingest["operators"], **train["operators"]}
        on_emr = {task for task, kind in operators.items() if kind == operator}
        assert on_emr == {"fetch_images", "featurize", "reduce", "train", "fine_tune", "score"}
        assert not [pool for pool in ingest["pools"].values() if "spark" in pool]
        assert ingest["code"]["featurize"] == "spark_jobs/featurize.py"


def test_a_person_is_asked_where_the_dataset_file_says_so(own: dict[str, Any]) -> None:
    assert own["dags"]["train_asked"]["tasks"] == [*TRAIN[:-1], "approve", "publish"]


def test_a_dataset_without_a_head_has_no_tasks_for_one(own: dict[str, Any]) -> None:
    assert not {"reduce", "train"} & set(own["dags"]["train_tuned"]["tasks"])


def test_a_competition_has_a_submission_that_follows_its_champion(shipped: dict[str, Any]) -> None:
    dags = shipped["dags"]
    assert dags["predict_digits"]["tasks"] == PREDICT
    predict = dags["predict_car_models"]
    assert predict["tasks"] == [*PREDICT, "submit"]
    assert predict["documented"]
    assert predict["max_active_runs"] == 1
    assert predict["timetable"] == "PartitionedAssetTimetable"
    assert "sightline://car_models/champion" in json.dumps(predict["schedule"])
    assert predict["pools"]["score_new"] == "sightline_spark"


def test_a_take_down_waits_for_what_is_running(own: dict[str, Any]) -> None:
    parsed = own
    take_down = parsed["dags"]["take_down"]
    assert take_down["tasks"] == ["wait_for_runs", "take_down"]
    assert take_down["documented"]
    assert take_down["max_active_runs"] == 1
    assert "ingest_good.expectations" not in parsed["dags"]


def test_a_dataset_without_a_schedule_runs_by_hand_only(own: dict[str, Any]) -> None:
    assert own["dags"]["ingest_manual"]["timetable"] == "NullTimetable"


def test_a_source_by_days_takes_the_day_before_where_a_run_has_no_partition(
    shipped: dict[str, Any],
) -> None:
    dags = shipped["dags"]

    def template(dag_id: str) -> str:
        variables = next(found for found in dags[dag_id]["partitions"] if found)
        return str(variables["SIGHTLINE_PARTITION"])

    assert "ds_add(dag_run.run_after" in template("ingest_land_transport")
    assert template("ingest_digits") == "{{ partition_key or 'all' }}"
    assert dags["ingest_land_transport"]["pools"]["list_images"] == "sightline_flickr"
    assert dags["ingest_open_images_car_tree"]["pools"]["list_images"] == "sightline_spark"


def test_maintenance_cleans_every_dataset_one_after_the_other(own: dict[str, Any]) -> None:
    maintenance = own["dags"]["maintenance"]
    datasets = {*OWN} - {"good.expectations"}
    assert set(maintenance["tasks"]) == {"clean_shared", *(f"{name}.maintain" for name in datasets)}
    assert maintenance["documented"]
    assert min(maintenance["retries"]) >= 2
    assert maintenance["max_active_runs"] == 1
