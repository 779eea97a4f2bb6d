"""Kaggle: its official client against a server that speaks its protocol, refusals, layouts, labels."""

import logging
import os
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sightline.catalog import open_catalog
from sightline.config import read_dataset
from sightline.errors import SourceError
from sightline.source_config import KaggleSource
from sightline.sources import kaggle, kaggle_api
from sightline.sources.access import Access, Credential
from tests.servers.kaggle import TOKEN, KaggleServer, kaggle_server

DATASETS = Path(__file__).parents[1] / "include" / "datasets"
CAR_FILES = "competitions/sf-dl-car-classification"


@pytest.fixture
def server() -> Iterator[KaggleServer]:
    with kaggle_server() as served:
        yield served


def fruits(server: KaggleServer, **more: Any) -> KaggleSource:
    folders = {"train": "Training", "test": "Test"}
    block = {"type": "kaggle", "dataset": "moltean/fruits", "folders": folders}
    return KaggleSource.model_validate({**block, "api": server.address, **more})


def cars(server: KaggleServer, **more: Any) -> KaggleSource:
    block = {"competition": CAR_FILES.split("/")[1], "folders": {"any": "train"}}
    block |= {"labels": "train.csv", "unlabelled": "test_upload"}
    return KaggleSource.model_validate({"type": "kaggle", "api": server.address, **block, **more})


def access(password: str = TOKEN, login: str = "") -> Access:
    credential = Credential(login, password) if password else None
    return Access(open_catalog("k"), "1", lambda connection: credential)


def listed(source: KaggleSource, given: Access | None = None) -> list[dict[str, Any]]:
    return [row for rows in kaggle.list_images(source, given or access()) for row in rows]


def refusal(source: KaggleSource, given: Access | None = None) -> str:
    with pytest.raises(SourceError) as caught:
        kaggle.survey(source, given or access())
    assert "secret" not in str(caught.value)
    return str(caught.value)


def test_folders_are_found_by_name_where_most_images_lie(server: KaggleServer) -> None:
    rows = listed(fruits(server))
    counts = Counter((row["label"], row["split_hint"]) for row in rows)
    assert counts == {
        ("Apple 1", "train"): 4,
        ("Apple 1", "test"): 2,
        ("Banana 1", "train"): 4,
        ("Banana 1", "test"): 2,
    }
    assert rows[0]["uri"] == "kaggle://moltean/fruits/Training/Apple 1/r_0_100.jpg"
    other = {
        split: f"fruits-360_original-size/{name}" for split, name in fruits(server).folders.items()
    }
    assert len(listed(fruits(server, folders=other))) == 8


def test_a_pinned_version_is_read_and_one_that_is_not_there_is_told(server: KaggleServer) -> None:
    assert {row["label"] for row in listed(fruits(server, version=1))} == {"Apple 1"}
    assert "has no version 7; the newest is 2" in refusal(fruits(server, version=7))
    newest = server.datasets["moltean/fruits"][2]
    assert kaggle.survey(fruits(server), access()).size_bytes == 2 * len(newest)


def test_a_competitions_table_wins_over_its_folders(
    server: KaggleServer, caplog: pytest.LogCaptureFixture
) -> None:
    files = server.competitions["sf-dl-car-classification"]
    files["train.csv"] = files["train.csv"].replace(b"100000.jpg,0", b"100000.jpg,9")
    given = access()
    rows = listed(cars(server), given)
    assert given.metrics["labels_corrected"] == 1
    assert "1 images: train.csv overrules their folder" in caplog.text
    counts = Counter(row["label"] for row in rows)
    assert counts == {"0": 2, "9": 4, None: 5} | {str(n): 3 for n in range(1, 9)}
    predicted = [row for row in rows if row["label"] is None]
    assert {row["split_hint"] for row in predicted} == {"predict"}
    assert predicted[0]["uri"] == f"kaggle://{CAR_FILES}/test_upload/0.jpg"


def test_the_bytes_are_those_of_the_archive_and_nothing_is_extracted(
    server: KaggleServer, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match="run the task list_images again"):
        list(kaggle.stream_images(fruits(server), access(), lambda uri: True, 10**6))
    assert len(listed(fruits(server))) == 12
    asked = len(server.calls)
    streamed = list(
        kaggle.stream_images(fruits(server), access(), lambda uri: "/Test/" in uri, 10**6)
    )
    assert len(streamed) == 4
    assert len(server.calls) == asked
    kept = Path(open_catalog("k").root) / "source" / "moltean-fruits-v2.zip"
    with zipfile.ZipFile(kept) as archive:
        for row, content in streamed:
            name = row["uri"].removeprefix("kaggle://moltean/fruits/")
            assert content == archive.read(f"fruits-360_100x100/fruits-360/{name}")
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} <= {
        ".zip",
        ".json",
        ".lock",
    }


def test_a_download_breaks_off_and_its_address_expires_and_it_goes_on(server: KaggleServer) -> None:
    server.resets = server.expiries = 1
    assert len(listed(fruits(server))) == 12
    assert (server.resets, server.expiries) == (0, 0)
    calls = len(server.calls)
    assert len(listed(fruits(server))) == 12
    assert len(server.calls) == calls + 1  # what is kept is not asked for again


def test_each_refusal_is_a_sentence_with_the_way_out(server: KaggleServer) -> None:
    assert "There is no connection kaggle_default" in refusal(fruits(server), access(""))
    assert "does not accept the token" in refusal(fruits(server), access("KGAT_secret-but-wrong"))
    assert "no dataset moltean/fruit;" in refusal(fruits(server, dataset="moltean/fruit"))
    server.closed.add("sf-dl-car-classification")
    rules = "accept the rules at https://www.kaggle.com/competitions/sf-dl-car-classification/rules"
    assert rules in refusal(cars(server))
    with pytest.raises(SourceError, match="no folder holds all of Nothing, Test"):
        listed(fruits(server, folders={"train": "Nothing", "test": "Test"}))


def test_a_busy_kaggle_is_asked_again_and_then_left_to_airflow(
    server: KaggleServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kaggle_api, "WAIT_SECONDS", 0.02)  # rather than half a second
    server.statuses = [503, 429]
    assert kaggle.survey(fruits(server), access()).size_bytes
    server.statuses = [503] * 4
    with pytest.raises(ConnectionError, match="in 4 tries: it answered 503"):
        kaggle.survey(fruits(server), access())


def test_the_token_stays_in_the_call(
    server: KaggleServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", "somebody-elses")
    caplog.set_level(logging.DEBUG)
    server.resets = server.expiries = 1
    listed(fruits(server))
    assert {authorization for _, authorization in server.calls} == {f"Bearer {TOKEN}"}
    assert TOKEN not in os.environ.values()
    ours = [record.getMessage() for record in caplog.records if "sightline" in record.name]
    assert ours
    assert not any("secret" in message for message in ours)
    with pytest.raises(
        SourceError
    ):  # a key with a user's name goes by Basic, which is refused here
        listed(fruits(server, version=1), access("key", login="me"))
    assert server.calls[-1][1].startswith("Basic ")


@pytest.mark.parametrize("name", ["fruits_360", "car_models", "sun397"])
def test_the_dataset_files_are_read(name: str) -> None:
    assert read_dataset(DATASETS / f"{name}.yaml").name == name
