"""Dataset files: what is right is read and frozen, what is wrong is refused in one helpful sentence."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from sightline.config import TrainSpec, dataset_files, load_dataset, read_dataset
from sightline.errors import ConfigError
from sightline.settings import load_settings

FOLDER = "source: {type: folder, path: photos}\n"


@pytest.fixture
def datasets(own_places: Path) -> Path:
    """The folder of dataset files in use."""
    return own_places / "datasets"


def complaint(datasets: Path, text: str) -> str:
    """The sentence with which a dataset file of that content is refused."""
    path = datasets / "pets.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_dataset(path)
    return str(caught.value)


def test_a_short_file_is_enough(datasets: Path) -> None:
    path = datasets / "pets.yaml"
    path.write_text(FOLDER, encoding="utf-8")
    spec = read_dataset(path)
    assert (spec.name, spec.source.type, spec.backbone.name) == ("pets", "folder", "resnet18")
    assert spec.reduce is not None
    assert spec.reduce.explained_variance == 0.95
    assert spec.limits.rejected_share == 0.1
    with pytest.raises(ValidationError, match="frozen"):
        spec.split.test = 0.5  # type: ignore[misc]


def test_every_key_can_be_set(datasets: Path) -> None:
    path = datasets / "pets.yaml"
    path.write_text(
        """
        description: Cats and dogs.
        schedule: 30 2 * * MON
        source: {type: folder, path: "s3://bucket/photos", options: {anon: true}}
        backbone: {name: timm/vit_tiny_patch16_224, weights: w.pth, seed: 3, image_size: 96}
        reduce: {components: 64}
        split: {test: 0.2, val: 0.1}
        train: {head: logistic_regression, penalties: [0, 1], folds: 5, max_iterations: 9, seed: 1}
        limits: {image_megabytes: 1, image_megapixels: 2, rejected_share: 0, images_per_class: 9}
        """,
        encoding="utf-8",
    )
    spec = read_dataset(path)
    assert spec.schedule == "30 2 * * MON"
    assert spec.source.model_dump() == {
        "type": "folder",
        "path": "s3://bucket/photos",
        "options": {"anon": True},
    }
    assert spec.train.penalties == (0, 1)
    assert spec.limits.images_per_class == 9


def test_a_head_is_shown_with_its_own_keys_only_and_read_again_as_it_was() -> None:
    forest = TrainSpec(head="random_forest", depths=(3,), class_weights="balanced")
    shown = forest.model_dump(mode="json")
    assert {"depths", "trees", "class_weights"} <= shown.keys()
    assert not {"penalties", "l1_ratios", "hidden_layers", "max_iterations"} & shown.keys()
    assert TrainSpec.model_validate(shown) == forest


def test_nothing_is_scheduled_or_reduced_where_the_file_says_null(datasets: Path) -> None:
    path = datasets / "pets.yaml"
    path.write_text(f"{FOLDER}schedule: null\nreduce: null", encoding="utf-8")
    assert read_dataset(path).schedule is None
    assert read_dataset(path).reduce is None


KEYS = (
    "backbone, compute, description, drift, fetch, fine_tune, gate, keep, labels, late_after_hours, "
    "licences, limits, owner, quality, reduce, schedule, source, split, train"
)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "pets.yaml must hold keys such as 'source:', but holds None."),
        ("[1]", "pets.yaml must hold keys such as 'source:', but holds [1]."),
        ("source: {type: digits}\nbackbon: {}",
         f"pets.yaml: unknown key 'backbon'; did you mean 'backbone'? Known: {KEYS}."),
        (f"{FOLDER}name: dogs",
         "pets.yaml: unknown key 'name'; the file's own name is the dataset's."),
        ("description: x", "pets.yaml: key 'source' is missing."),
        ("source: {type: folder}", "pets.yaml: key 'source.path' is missing."),
        ("source: {type: foldr, path: x}", "pets.yaml: unknown source type 'foldr'; "
         "did you mean 'folder'? Known: archive, digits, flickr, folder, kaggle, open_images, url_list."),
        ("source: {path: x}",
         "pets.yaml: key 'source.type' is missing; known types: archive, digits, flickr, folder, "
         "kaggle, open_images, url_list."),
        ("source: {type: folder, path: x, pth: y}", "pets.yaml: unknown key 'source.pth'; "
         "did you mean 'path'? Known: options, path, type."),
        ("source: {type: digits, path: x}",
         "pets.yaml: unknown key 'source.path'. Known: type."),
        (f"{FOLDER}backbone: {{name: resnet5}}", "pets.yaml: backbone.name: unknown backbone "
         "'resnet5'; did you mean 'resnet50'? Known: resnet50, resnet152, resnet34."),
        (f"{FOLDER}backbone: {{name: zzz}}",
         "pets.yaml: backbone.name: unknown backbone 'zzz'."),
        (f"{FOLDER}backbone: {{nam: vgg16}}", "pets.yaml: unknown key 'backbone.nam'; "
         "did you mean 'name'? Known: decode, image_size, name, precision, seed, weights."),
        (f"{FOLDER}backbone: {{image_size: 3}}", "pets.yaml: backbone.image_size: input should "
         "be greater than or equal to 16, but is 3."),
        (f"{FOLDER}reduce: {{}}",
         "pets.yaml: reduce: give one of components and explained_variance."),
        (f"{FOLDER}reduce: {{components: 3, explained_variance: 0.5}}",
         "pets.yaml: reduce: give one of components and explained_variance."),
        (f"{FOLDER}reduce: {{explained_variance: 95}}", "pets.yaml: reduce.explained_variance: "
         "input should be less than 1, but is 95."),
        (f"{FOLDER}reduce: {{component: 3}}", "pets.yaml: unknown key 'reduce.component'; "
         "did you mean 'components'? Known: components, explained_variance."),
        (f"{FOLDER}split: {{tset: 0.1}}",
         "pets.yaml: unknown key 'split.tset'; did you mean 'test'? Known: burst_minutes, group_by, "
             "seed, test, val."),
        (f"{FOLDER}split: {{test: 0.8, val: 0.4}}",
         "pets.yaml: split: test and val leave nothing to train on: 0.8 + 0.4."),
        (f"{FOLDER}train: {{penalties: []}}", "pets.yaml: train.penalties: give at least one."),
        (f"{FOLDER}train: {{penalties: [-1]}}", "pets.yaml: train.penalties.0: input should be "
         "greater than or equal to 0, but is -1."),
        (f"{FOLDER}train: {{head: svm}}",
         "pets.yaml: train.head: input should be 'logistic_regression', 'linear_svm', 'random_forest' "
         "or 'multilayer_perceptron', but is 'svm'."),
        (f"{FOLDER}train: {{l1_ratios: [2]}}", "pets.yaml: train.l1_ratios.0: input should be "
         "less than or equal to 1, but is 2."),
        (f"{FOLDER}train: {{head: random_forest, depths: []}}",
         "pets.yaml: train.depths: give at least one."),
        (f"{FOLDER}train: {{head: linear_svm, l1_ratios: [0.5]}}",
         "pets.yaml: train: l1_ratios belongs to logistic_regression, and the head is linear_svm; "
         "remove it or choose another head."),
        (f"{FOLDER}train: {{head: multilayer_perceptron, class_weights: balanced}}",
         "pets.yaml: train: class_weights belongs to logistic_regression, linear_svm and "
         "random_forest, and the head is multilayer_perceptron; remove it or choose another head."),
        (f"{FOLDER}limits: {{rejected_share: 1.5}}", "pets.yaml: limits.rejected_share: input "
         "should be less than or equal to 1, but is 1.5."),
        (f"{FOLDER}schedule: every day", "pets.yaml: schedule: 'every day' is not a cron "
         "expression such as '0 0 * * *'."),
        (f"{FOLDER}schedule: 61 0 * * *", "pets.yaml: schedule: '61 0 * * *' is not a cron "
         "expression such as '0 0 * * *'."),
        ("source: {type: folder}\nsplit: {test: 2}", "pets.yaml: key 'source.path' is missing. "
         "split.test: input should be less than 0.9, but is 2."),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_with_a_sentence(datasets: Path, text: str, sentence: str) -> None:
    assert complaint(datasets, text) == sentence


def test_a_file_that_is_not_yaml_is_refused_with_its_place(datasets: Path) -> None:
    said = complaint(datasets, "source: [")
    assert said.startswith("pets.yaml is not YAML: while parsing a flow node")
    assert "line 2" in said
    assert "\n" not in said
    (datasets / "latin.yaml").write_bytes(b"description: caf\xe9")
    with pytest.raises(ConfigError, match=r"latin\.yaml is not YAML: .*can't decode byte 0xe9"):
        read_dataset(datasets / "latin.yaml")


@pytest.mark.parametrize("stem", ["Pets", "my-pets", "1pets", "pets.old", "p" * 64])
def test_a_file_whose_name_cannot_name_a_dataset_is_refused(datasets: Path, stem: str) -> None:
    path = datasets / f"{stem}.yaml"
    path.write_text(FOLDER, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_dataset(path)
    assert f"{stem!r} cannot name a dataset; use small letters, digits and _." in str(caught.value)


def test_a_dataset_is_found_by_its_name_or_the_nearest_is_told(datasets: Path) -> None:
    for name in ("pets", "birds"):
        (datasets / f"{name}.yaml").write_text(FOLDER, encoding="utf-8")
    assert [path.stem for path in dataset_files()] == ["birds", "pets"]
    assert load_dataset("pets").name == "pets"
    with pytest.raises(ConfigError) as caught:
        load_dataset("pet")
    assert str(caught.value) == (
        f"No dataset 'pet' in {datasets}; did you mean 'pets'? Known: birds, pets."
    )


def test_the_datasets_of_the_repository_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIGHTLINE_DATASETS")
    assert dataset_files()
    for path in dataset_files():
        assert load_dataset(path.stem).name == path.stem


def test_relative_places_are_taken_from_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGHTLINE_HOME", "/srv/checkout")
    monkeypatch.setenv("SIGHTLINE_STORAGE", "store")
    monkeypatch.delenv("SIGHTLINE_STATE")
    monkeypatch.setenv("SIGHTLINE_DATASETS", "/etc/datasets")
    places = load_settings()
    assert places.storage == "/srv/checkout/store"
    assert places.state == Path("/srv/checkout/.sightline")
    assert places.datasets == Path("/etc/datasets")
    monkeypatch.setenv("SIGHTLINE_STORAGE", "s3://bucket/store")
    assert load_settings().storage == "s3://bucket/store"
