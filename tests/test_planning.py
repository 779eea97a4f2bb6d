"""Plans: the formulas obey their laws, agree with the simulation, and the command says what it stands on."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sightline import cli
from sightline.config import DatasetSpec
from sightline.errors import ConfigError
from sightline.planning import Cluster, Measured, Prices, choose_instance, make_plan, read_measured
from sightline.planning.measured import Commit, Line, results_folder
from sightline.planning.parts import (
    PARTS,
    Size,
    chunks_at_once,
    featurize,
    featurize_course,
    fetch_course,
    fetch_images,
    useful_executors,
)
from sightline.planning.simulation import Stage, simulate
from tests.conftest import (
    catalog_of,
    made_up_image_row,
    store_partition,
    store_rows,
    write_dataset,
)

MEASURED = Measured(
    machine="a machine",
    listing=50_000,
    fetching=75,
    featurizing={"resnet18": 27.5},
    pca=2_500,
    worker_bytes=1.5e9,
    commit=Commit(0.01, 0.00005, 1e-7),
    near_duplicate_seconds=Line(0, 0.00013),
    near_duplicate_bytes=Line(9e7, 500),
    split_seconds=Line(0, 0.0002),
    split_bytes=Line(2e8, 2_000),
)
MILLION = Size(1e6, 300_000, 512, 64, 1_000, "resnet18")


def of(executors: int) -> Cluster:
    return Cluster(choose_instance("m7i.xlarge"), executors)


@pytest.fixture
def spec(own_places: Path) -> DatasetSpec:
    """A dataset that has listed nothing."""
    return write_dataset(
        own_places, "photos", "source: {type: digits}\nbackbone: {name: resnet18}\n"
    )


def plan(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """What `sightline plan` says, and its exit code."""
    code = cli.main(["plan", *arguments])
    said = capsys.readouterr()
    return code, said.out + said.err


@pytest.mark.parametrize("stage", [fetch_images, featurize])
def test_twice_the_executors_take_half_the_time_while_commits_keep_up(stage: Any) -> None:
    one, two = (stage(MILLION, of(executors), MEASURED).hours for executors in (2, 4))
    assert one == pytest.approx(2 * two)


def test_a_cluster_is_no_faster_than_the_commits_of_its_chunks() -> None:
    many = fetch_course(MILLION, of(5_000), MEASURED)
    assert many.seconds >= many.commit_seconds
    fewer = fetch_course(replace(MILLION, images_per_commit=10_000), of(5_000), MEASURED)
    assert fewer.commit_seconds < many.commit_seconds / 5


def test_more_than_the_useful_executors_make_no_stage_faster() -> None:
    most = useful_executors(MILLION, of(1), MEASURED)
    half, all_of_them, twice = (
        featurize(MILLION, of(executors), MEASURED).hours
        for executors in (most // 2, most, 2 * most)
    )
    assert twice == pytest.approx(all_of_them, rel=0.02)
    assert half > 1.8 * all_of_them


@pytest.mark.parametrize("executors", [1, 4, 16, 100])
@pytest.mark.parametrize("course_of", [fetch_course, featurize_course])
def test_the_formulas_agree_with_the_simulation(course_of: Any, executors: int) -> None:
    cluster = of(executors)
    course = course_of(MILLION, cluster, MEASURED)
    parts = round(course.tasks_at_once / chunks_at_once(cluster))
    chunks = int(MILLION.chunks)
    found = simulate(
        Stage(
            chunks=chunks,
            parts=parts,
            task_seconds=course.work_seconds / chunks / parts,
            chunks_at_once=chunks_at_once(cluster),
            cores=cluster.cores,
            commit_seconds=lambda held: MEASURED.commit.at(held * 1_000, held),
        )
    )
    # Worst where cores and commits have as much to do: then each waits for the other now and then.
    assert course.seconds <= found.seconds * 1.01
    assert found.seconds == pytest.approx(course.seconds, rel=0.25)


def test_a_simulation_is_the_same_again_and_loses_time_with_executors_only() -> None:
    calm = Stage(200, 9, 4.0, 9, 16, lambda held: 0.05)
    assert simulate(calm) == simulate(calm)
    lossy = simulate(replace(calm, tasks_a_loss=20))
    assert simulate(calm).seconds < lossy.seconds < 1.2 * simulate(calm).seconds
    assert simulate(replace(calm, cores=1)).busy == pytest.approx(1, abs=0.01)


def test_commits_that_are_slower_than_the_work_queue_up() -> None:
    slow = simulate(Stage(200, 9, 0.1, 9, 64, lambda held: 1.0))
    assert slow.seconds == pytest.approx(200, rel=0.02)
    assert slow.commits_waiting >= 8


def test_a_stage_fits_below_its_limit_and_not_above(spec: DatasetSpec) -> None:
    made = make_plan(spec, MILLION, of(4), MEASURED, Prices())
    limits = {part.name: (part.most_images, part.outgrows) for part in made.parts}
    for name, (most, outgrows) in limits.items():
        below, above = (
            PARTS[name](replace(MILLION, images=most * factor), of(4), MEASURED)
            for factor in (0.95, 1.05)
        )
        assert below.hours <= 24
        assert below.memory_bytes <= of(4).memory_bytes
        beyond = (
            above.hours > 24 if outgrows == "hours" else above.memory_bytes > of(4).memory_bytes
        )
        assert beyond, name


def test_only_what_runs_on_executors_is_paid_for(spec: DatasetSpec) -> None:
    made = make_plan(spec, MILLION, of(4), MEASURED, Prices())
    hours = sum(part.need.hours for part in made.parts if part.on_executors)
    assert 0 < hours < made.hours
    assert made.dollars["instances"] == pytest.approx(5 * 0.2016 * hours)
    assert made.storage_bytes["images"] == pytest.approx(1e6 * 300_300)


def test_commits_are_fitted_without_a_cost_below_nothing(tmp_path: Path) -> None:
    for path in results_folder().glob("*.json"):
        (tmp_path / path.name).write_text(path.read_text())
    scale = json.loads((tmp_path / "scale.json").read_text())
    splits = [row for row in scale["rows"] if row["system"] == "split"]
    sizes = ((1e5, 100), (1e6, 100), (1e6, 1_000), (1e6, 4_000))
    commits = [
        {
            "system": "commit",
            "images": rows,
            "files": files,
            "seconds": 0.01 + 1e-4 * files + 1e-7 * rows,
        }
        for rows, files in sizes
    ]
    (tmp_path / "scale.json").write_text(json.dumps({**scale, "rows": [*commits, *splits]}))
    found = read_measured(tmp_path).commit
    assert found.at(1e7, 4_000) == pytest.approx(0.01 + 0.4 + 1.0)
    assert min(found.fixed, found.each_file, found.each_row) >= 0


def test_the_kept_results_are_enough_for_a_plan() -> None:
    measured = read_measured(results_folder())
    assert measured.featurizing["resnet18"] > 1
    assert measured.commit.at(1e6, 1_000) > measured.commit.at(1e5, 100) > 0


def test_a_missing_result_is_named_with_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"throughput\.json is missing; run `make bench"):
        read_measured(tmp_path)


def test_the_command_plans_for_the_images_that_are_listed_and_held(
    spec: DatasetSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = plan(capsys, "photos")
    assert code == cli.REFUSED
    assert "such as 'sightline plan photos --images 1e6'" in said
    catalog = catalog_of(spec)
    row = {**dict.fromkeys(catalog.manifest.schema.names), "label": "a", "rotation": 0}
    listed = [{**row, "uri": f"mem://{number}", "partition": "all"} for number in range(1_200)]
    store_partition(catalog.manifest, listed, "all")
    store_rows(catalog.images, [made_up_image_row(number) for number in range(10)])
    code, said = plan(capsys, "photos", "--json")
    [made] = json.loads(said)
    assert code == cli.OK
    assert made["size"]["images"] == 1_200
    assert made["size"]["image_bytes"] != 300_000  # as large as those that are held


def test_the_command_plans_for_any_size_and_says_where_it_ends(
    spec: DatasetSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = plan(capsys, "photos", "--images", "1e6,1e9", "--instance", "r7i.8xlarge")
    assert code == cli.OK
    assert "photos: 1,000,000 images" in said
    assert "photos: 1,000,000,000 images" in said
    assert "(memory)" in said
    assert "or EMR Serverless $" in said


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--images", "many"), "--images takes numbers such as 1e6"),
        (("--images", "1e6", "--instance", "m7i.xlrge"), "did you mean 'm7i.xlarge'?"),
    ],
)
def test_what_makes_no_plan_is_refused_in_a_sentence(
    spec: DatasetSpec,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    sentence: str,
) -> None:
    code, said = plan(capsys, "photos", *arguments)
    assert code == cli.REFUSED
    assert sentence in said


def test_a_backbone_that_was_not_measured_wants_a_rate(
    own_places: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(own_places, "photos", "source: {type: digits}\nbackbone: {name: resnet50}\n")
    code, said = plan(capsys, "photos", "--images", "1e6")
    assert code == cli.REFUSED
    assert "such as --rate 20" in said
    code, said = plan(capsys, "photos", "--images", "1e6", "--rate", "20", "--json")
    assert code == cli.OK
    assert json.loads(said)[0]["size"]["dim"] == 2_048
