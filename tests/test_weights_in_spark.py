"""Large networks in real Spark jobs with the default settings: no weights in the JVM's heap, one copy."""

from pathlib import Path

import pytest

from sightline import memory, shipping, storage
from sightline.settings import load_settings
from tests.conftest import catalog_of, write_dataset
from tests.watched_jobs import HOME, VGG16, assert_features_are_the_networks, store_photos, submit

pytestmark = pytest.mark.slow


def test_vgg16_is_featurized_with_the_default_settings_and_one_copy_of_its_weights(
    own_places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGHTLINE_STATE", str(HOME / ".sightline"))
    spec = write_dataset(own_places, "photos", VGG16)
    catalog = catalog_of(spec)
    store_photos(catalog)
    watched = submit(spec.name)
    assert watched.returncode == 0, watched.log[-4000:]
    assert watched.peak_bytes <= 3.5 * memory.GIB, memory.shown(watched.peak_bytes)
    assert len(watched.mapped_by) >= 2
    assert len(storage.list_names(storage.join(load_settings().storage, shipping.WEIGHTS))) == 1
    assert_features_are_the_networks(spec, catalog)
