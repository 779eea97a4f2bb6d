"""The preflight: one sentence for each thing that is missing, before anything has been written."""

import os
from pathlib import Path

import pytest

from sightline import memory, preflight, tables
from sightline.config import DatasetSpec
from sightline.errors import ResourceError, SightlineError, SourceError, WeightsError
from sightline.images import Limits
from sightline.schemas import WORK
from sightline.settings import load_settings
from sightline.source_config import FetchSpec
from sightline.sources import Access, Survey
from sightline.sources.fetching import Fetching, fetch_batches, to_batch
from tests.conftest import (
    QuietHandler,
    catalog_of,
    make_task,
    web_server,
    write_dataset,
    write_photos,
)

RANDOM = "backbone: {name: resnet18, weights: random}"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five photos of two classes."""
    return write_photos(tmp_path / "photos", {"cats": 3, "dogs": 2})


def test_what_is_in_order_is_told_as_facts(tmp_path: Path, photos: Path) -> None:
    facts = check(dataset(tmp_path, photos))
    assert [fact.split(":")[0] for fact in facts] == ["source", "backbone", "disk", "memory"]
    assert facts[0] == "source: 5 images in 2 classes"
    assert "512 features, seeded random weights (never trained)" in facts[1]
    assert not Path(load_settings().storage).exists()


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    sentence = refusal(SourceError, dataset(tmp_path, tmp_path / "absent"))
    assert sentence.startswith(f"Folder {tmp_path}/absent does not exist; put photos into ")


def test_a_folder_that_may_not_be_read(tmp_path: Path, photos: Path) -> None:
    class Locked(QuietHandler):
        def do_GET(self) -> None:  # noqa: N802
            self.send_error(403, "Forbidden")

    with web_server(Locked) as url:
        sentence = refusal(SourceError, dataset(tmp_path, f"{url}/photos"))
    assert sentence.startswith(f"Cannot list {url}/photos: 403, message='Forbidden'")
    if os.geteuid():
        photos.chmod(0)
        assert "Permission denied" in refusal(SourceError, dataset(tmp_path, photos))


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "photos" / "cats").mkdir(parents=True)
    assert refusal(SourceError, dataset(tmp_path, tmp_path / "photos")) == (
        f"Dataset photos: {tmp_path}/photos holds no image; put photos into "
        f"{tmp_path}/photos/<class>/."
    )


def test_one_class_only(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", {"cats": 3})
    sentence = refusal(SourceError, dataset(tmp_path, tmp_path / "photos"))
    assert sentence.startswith("Dataset photos has one class only, 'cats'; a classifier needs two")


def test_a_class_with_one_image(tmp_path: Path, photos: Path) -> None:
    write_photos(photos, {"newts": 1})
    sentence = refusal(SourceError, dataset(tmp_path, photos))
    assert "class 'newts' has 1, but a class needs 2 images or more" in sentence
    assert check(dataset(tmp_path, photos, "limits: {images_per_class: 1}"))


def test_many_small_classes_are_not_all_listed(tmp_path: Path, photos: Path) -> None:
    write_photos(photos, {f"class {number:02d}": 1 for number in range(30)})
    sentence = refusal(SourceError, dataset(tmp_path, photos))
    assert "class 'class 04' has 1 and 25 more classes have too few, but a class needs" in sentence


def test_a_weights_file_that_does_not_exist(tmp_path: Path, photos: Path) -> None:
    backbone = f"backbone: {{name: resnet18, weights: {tmp_path}/absent.pth}}"
    assert refusal(WeightsError, dataset(tmp_path, photos, backbone)) == (
        f"Weights file {tmp_path}/absent.pth does not exist; correct backbone.weights."
    )


def test_weights_whose_download_broke_off(tmp_path: Path, photos: Path, shared_data: Path) -> None:
    for file in sorted((shared_data / "weights_truncated").glob("*.pth")):
        backbone = f"backbone: {{name: resnet18, weights: {file}}}"
        sentence = refusal(WeightsError, dataset(tmp_path, photos, backbone))
        assert sentence.startswith(f"Weights file {file} ({file.stat().st_size:,} bytes) cannot be")
        assert "it may be cut short" in sentence


def test_weights_of_another_network(tmp_path: Path, photos: Path, shared_data: Path) -> None:
    file = next((shared_data / "weights").glob("squeezenet1_0*.pth"))
    backbone = f"backbone: {{name: resnet18, weights: {file}}}"
    sentence = refusal(WeightsError, dataset(tmp_path, photos, backbone))
    assert sentence.startswith(f"Weights file {file} does not fit resnet18: ")
    fitting = f"backbone: {{name: squeezenet1_0, weights: {file}}}"
    assert "squeezenet1_0, 512 features" in check(dataset(tmp_path, photos, fitting))[1]


def test_weights_of_a_name_that_torchvision_does_not_know(tmp_path: Path, photos: Path) -> None:
    backbone = "backbone: {name: resnet18, weights: IMAGENET1K_V9}"
    sentence = refusal(WeightsError, dataset(tmp_path, photos, backbone))
    assert sentence.startswith("Weights 'IMAGENET1K_V9' of resnet18 are unknown; give 'default'")
    assert "IMAGENET1K_V1" in sentence


def test_a_disk_that_is_too_small(
    tmp_path: Path, photos: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGHTLINE_STORAGE", str(small_disk / "data"))
    sentence = refusal(ResourceError, dataset(tmp_path, photos))
    assert sentence.startswith("Dataset photos needs about 200 MiB on disk at ")
    assert f"{small_disk}/data/photos, but 64 MiB are free; make room or set" in sentence


def test_what_is_held_already_needs_no_room(tmp_path: Path, photos: Path) -> None:
    spec = dataset(tmp_path, photos)
    survey = Survey({"cats": 3, "dogs": 2}, size_bytes=10**18)
    with pytest.raises(ResourceError, match=r"needs about [\d.,]+ GiB on disk"):
        preflight.check_survey(spec, survey)
    images = catalog_of(spec).images
    work = fetch_batches(Fetching(Limits(2**20, 10**6), FetchSpec()), lambda rejects: None)
    listed = [{"uri": str(path), "partition": "all"} for path in photos.rglob("*.jpg")]
    urls = tables.write_batches(images, work(iter([to_batch(listed, WORK)])))
    tables.append_new(images, urls, "all", make_task("fetch_images")[0].writer)
    assert preflight.check_survey(spec, survey)


def test_more_rows_and_columns_than_the_memory_holds(tmp_path: Path, photos: Path) -> None:
    spec = dataset(tmp_path, photos, RANDOM + "\nreduce: {components: 500}")
    images = memory.total_bytes() // (500 * 8)  # the matrix alone fills the memory
    with pytest.raises(ResourceError) as caught:
        preflight.check_survey(spec, Survey({"cats": images, "dogs": 2}, size_bytes=images))
    sentence = str(caught.value)
    assert sentence.startswith("Dataset photos needs about ")
    assert f"of memory ({images + 2:,} images x 500 numbers), but this machine has" in sentence
    assert "set reduce.components lower" in sentence
    narrow = dataset(tmp_path, photos, RANDOM + "\nreduce: {components: 2}")
    few = Survey({"cats": 2, "dogs": 2}, size_bytes=10)
    assert "(4 x 2)" in preflight.check_survey(narrow, few)[3]


def test_a_training_that_fits_is_told_part_by_part(tmp_path: Path, photos: Path) -> None:
    backbone = "backbone: {name: resnet18, weights: random, image_size: 64}"
    spec = dataset(tmp_path, photos, f"{backbone}\nfine_tune: {{}}\nlimits: {{memory: 4GiB}}")
    fact = check(spec)[-1]
    assert fact.startswith("memory: fine_tune holds at least ")
    assert fact.endswith(", of 4.0 GiB that it may use")
    for part in (
        "weights 85 MiB",
        "gradients",
        "optimiser",
        "activations of two pictures",
        "data l",
    ):
        assert part in fact


def test_a_training_that_no_micro_batch_makes_fit(tmp_path: Path, photos: Path) -> None:
    backbone = "backbone: {name: vgg16, weights: random, image_size: 32}"
    spec = dataset(
        tmp_path, photos, f"{backbone}\nfine_tune: {{trainable: all}}\nlimits: {{memory: 2GiB}}"
    )
    sentence = refusal(ResourceError, spec)
    assert sentence.startswith(
        "Dataset photos: fine-tuning vgg16 (trainable: all, 32 pixels, adamw) needs about 4."
    )
    assert "of memory in each process on two pictures at a time, but it may use 2.0 GiB" in sentence
    assert "set limits.memory to 6GiB or more, choose a smaller backbone.image_size" in sentence
    frozen = dataset(tmp_path, photos, f"{backbone}\nfine_tune: {{trainable: head}}")
    assert check(frozen)


def test_processes_share_the_machine(tmp_path: Path, photos: Path) -> None:
    text = "backbone: {name: resnet18, weights: random, image_size: 32}\n"
    text += "fine_tune: {processes: 2048, batch_size: 4096}\nlimits: {memory: 1GiB}"
    sentence = refusal(ResourceError, dataset(tmp_path, photos, text))
    assert "for 2048 processes on two pictures at a time, but there are " in sentence
    assert "GiB here; " in sentence
    assert "fewer fine_tune.processes, or use a machine with more memory." in sentence


def test_more_workers_than_the_memory_holds(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGHTLINE_SPARK_MASTER", "local[99999]")
    sentence = refusal(ResourceError, dataset(tmp_path, photos))
    assert "of memory to featurize on 99999 cores at once, but this machine has " in sentence
    assert "set SIGHTLINE_SPARK_MASTER to local[1], " in sentence
    monkeypatch.setenv("SIGHTLINE_SPARK_MASTER", "local[1]")
    assert check(dataset(tmp_path, photos))


def test_a_cluster_whose_memory_is_unknown_refuses_no_training(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGHTLINE_SPARK_MASTER", "spark://127.0.0.1:7077")
    text = "backbone: {name: vgg16, weights: random, image_size: 32}\n"
    text += "fine_tune: {trainable: all, processes: 2}\nlimits: {memory: 1GiB}"
    *_, features, training = check(dataset(tmp_path, photos, text))
    assert features.endswith("on each machine of the cluster")
    assert training.endswith("MiB)")


def dataset(places: Path, photos: Path | str, more: str = RANDOM) -> DatasetSpec:
    """A dataset named photos whose source is a folder."""
    more = more if "backbone" in more else f"{RANDOM}\n{more}"
    text = f"source: {{type: folder, path: '{photos}'}}\n{more}\n"
    return write_dataset(places, "photos", text)


def check(spec: DatasetSpec) -> list[str]:
    """The preflight of all of a dataset."""
    return preflight.check(spec, Access(catalog_of(spec), "all"))


def refusal(kind: type[SightlineError], spec: DatasetSpec) -> str:
    """The sentence with which the preflight refuses; it must leave nothing in the storage."""
    with pytest.raises(kind) as caught:
        check(spec)
    assert not Path(load_settings().storage).exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)
