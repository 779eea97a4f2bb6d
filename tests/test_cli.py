"""The `sightline` command: sentences instead of tracebacks, exit codes, signals."""

import json
import signal
from pathlib import Path

import pytest

from sightline import cli, models
from sightline.catalog import open_catalog

pytestmark = pytest.mark.usefixtures("own_signals")

DIGITS = "source: {type: digits}\nbackbone: {name: resnet18, weights: random, image_size: 64}\n"


def write(places: Path, text: str) -> None:
    """Write the dataset file `birds`."""
    (places / "datasets" / "birds.yaml").write_text(text)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("sorce: {type: digits}", "unknown key 'sorce'; did you mean 'source'?"),
        ("source: {type: digits}\nbackbone: {name: resnet81}", "did you mean 'resnet18'?"),
        ("[1, 2]", "must hold keys"),
    ],
)
def test_a_wrong_dataset_file_is_one_sentence_and_exit_code_2(
    own_places: Path, capsys: pytest.CaptureFixture[str], text: str, sentence: str
) -> None:
    write(own_places, text)
    assert cli.main(["run", "birds"]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("birds.yaml")
    assert sentence in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert not (own_places / "data").exists()
    assert not (own_places / "state").exists()  # no Airflow was started to find out


def test_an_unknown_dataset_names_those_there_are(
    own_places: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(own_places, DIGITS)
    for command in ("run", "check", "status", "models", "rollback"):
        assert cli.main([command, "bird"]) == 2
        assert "did you mean 'birds'?" in capsys.readouterr().err


def test_a_refusal_of_the_preflight_answers_before_any_airflow_starts(
    own_places: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(own_places, f"source: {{type: folder, path: {own_places}/nowhere}}")
    assert cli.main(["run", "birds"]) == 1
    assert "nowhere" in capsys.readouterr().err
    assert not (own_places / "state").exists()


def test_a_partition_that_cannot_be_a_key_is_refused(
    own_places: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(own_places, DIGITS)
    assert cli.main(["run", "birds", "--partition", "../../etc"]) == 2
    assert "'../../etc' is not a partition key" in capsys.readouterr().err


def test_check_prints_the_facts(own_places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(own_places, DIGITS)
    assert cli.main(["check", "birds"]) == 0
    assert "1,797 images in 10 classes" in capsys.readouterr().out


def test_status_is_for_people_and_for_programs(
    own_places: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(own_places, DIGITS)
    assert cli.main(["status"]) == 0
    assert "champion        none yet" in capsys.readouterr().out
    assert cli.main(["status", "birds", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["dataset"] == "birds"
    assert cli.main(["status", "--json"]) == 0
    assert [one["dataset"] for one in json.loads(capsys.readouterr().out)] == ["birds"]


def test_one_command_rolls_the_champion_back_and_another_lists_the_models(
    own_places: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(own_places, DIGITS)
    assert cli.main(["rollback", "birds"]) == 1
    assert capsys.readouterr().err == "Dataset birds has no champion; run train_birds.\n"
    assert cli.main(["models", "birds"]) == 0
    assert capsys.readouterr().out == "Dataset birds has no model yet.\n"
    catalog = open_catalog("birds")
    for version, accuracy in (("v1", 0.9), ("v2", 0.8)):
        model = {"version": version, "kind": "head", "created_at": "2026-11-05"}
        models.write_model(catalog, {**model, "metrics": {"accuracy": accuracy}})
        models.crown(catalog, version)
    assert cli.main(["rollback", "birds", "--reason", "blurred"]) == 0
    said = capsys.readouterr().out
    assert "Champion of birds: v1 (accuracy 0.9000), in place of v2." in said
    assert "'sightline rollback birds --to v2' takes it back" in said
    assert cli.main(["models", "birds"]) == 0
    assert "blurred" in capsys.readouterr().out
    assert cli.main(["models", "birds", "--json"]) == 0
    listed = {row["version"]: row["standing"] for row in json.loads(capsys.readouterr().out)}
    assert listed == {"v1": "champion", "v2": "rolled back"}
    assert cli.main(["rollback", "birds", "--to", "v7"]) == 2
    assert "'v7' was never champion of birds. Known: v1, v2." in capsys.readouterr().err


def test_status_of_a_dataset_whose_file_is_broken_still_answers(
    own_places: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(own_places, "sorce: 1")
    assert cli.main(["status", "birds"]) == 0
    assert "birds" in capsys.readouterr().out


def test_what_nobody_expected_is_a_line_and_a_file_with_the_details(
    own_places: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(own_places, DIGITS)
    (own_places / "data").write_text("a file where the storage should be")
    assert cli.main(["status", "birds"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("Unexpected ")
    assert "Traceback" not in said
    details = own_places / "state" / "error.log"
    assert str(details) in said
    assert "Traceback" in details.read_text()
    with pytest.raises(NotADirectoryError):
        cli.main(["--debug", "status", "birds"])


def test_down_without_an_airflow_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["down"]) == 0
    assert capsys.readouterr().out == "No local Airflow is running.\n"


@pytest.mark.parametrize("number", cli.STOP_SIGNALS)
def test_each_way_to_be_stopped_interrupts_once(number: signal.Signals) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for what it starts with &
    cli.listen_to_signals()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)
    signal.raise_signal(number)  # while cleaning up, a second one changes nothing


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    for command in (
        "run",
        "demo",
        "check",
        "status",
        "models",
        "rollback",
        "up",
        "down",
        "prepare",
    ):
        assert f"\n    {command} " in said


@pytest.mark.parametrize(
    ("days", "sentence"),
    [
        (["2026-11-05", "2026-11-04"], "ends on 2026-11-04, before it begins on 2026-11-05"),
        (["yesterday", "2026-11-04"], "'yesterday' is no day; give one such as 2026-11-05."),
    ],
)
def test_a_backfill_of_no_days_is_refused(
    own_places: Path, capsys: pytest.CaptureFixture[str], days: list[str], sentence: str
) -> None:
    write(own_places, DIGITS)
    assert cli.main(["backfill", "birds", "--from", days[0], "--to", days[1]]) == 2
    assert sentence in capsys.readouterr().err


def test_a_backfill_without_a_schedule_is_refused(
    own_places: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(own_places, f"{DIGITS}schedule: null\n")
    assert cli.main(["backfill", "birds", "--from", "2026-11-05", "--to", "2026-11-05"]) == 2
    assert "has no schedule, and Airflow backfills scheduled DAGs only" in capsys.readouterr().err


def test_a_login_that_only_airflow_may_have_is_left_to_the_run(
    own_places: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(own_places, "source: {type: flickr, searches: {cat: cat}}\n")
    assert cli.main(["check", "birds"]) == 0
    assert "connection flickr_default: not in this environment" in capsys.readouterr().out
