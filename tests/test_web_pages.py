"""The application of the pages: its frame, its errors and its headers."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from sightline.web.access import Open
from sightline.web.app import create_app
from tests.conftest import write_dataset

BIRDS = "source: {type: folder, path: photos}\nbackbone: {name: resnet18}\n"


@pytest.fixture
def pages(own_places: Path) -> TestClient:
    write_dataset(own_places, "birds", BIRDS)
    return TestClient(create_app(Open()))


def test_the_datasets_are_listed(pages: TestClient) -> None:
    answer = pages.get("/")
    assert answer.status_code == 200
    assert "birds" in answer.text
