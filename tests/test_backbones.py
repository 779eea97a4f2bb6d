"""Backbones: features as torchvision itself would give them, and ids that say what they were made of."""

import hashlib
import io
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision import transforms
from torchvision.models import get_model, get_model_builder, get_model_weights, list_models

from sightline import backbones
from sightline.backbone_names import TORCHVISION_NAMES
from sightline.backbones import Backbone, architectures, weights
from sightline.backbones.inference import Network
from sightline.config import BackboneSpec
from sightline.errors import ConfigError, WeightsError
from sightline.shared_files import local_path

TINY = "mobilenet_v3_small"
TINY_TIMM = "timm/test_resnet"


pytestmark = pytest.mark.usefixtures("one_torch_thread")


def spec_of(name: str, chosen: str = "random", **more: Any) -> BackboneSpec:
    return BackboneSpec(name=name, weights=chosen, **more)


def pictures(count: int = 3, side: int = 96, seed: int = 0) -> list[Image.Image]:
    """Smooth pictures, each different, wider than high."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 5, 7, 3), dtype=np.uint8)
    size = (side * 4 // 3, side)
    return [Image.fromarray(one).resize(size, Image.Resampling.BICUBIC) for one in coarse]


def features(backbone: Backbone, shown: list[Image.Image]) -> torch.Tensor:
    with torch.inference_mode():
        return backbone.module(
            torch.stack([backbone.preprocessing.transform(picture) for picture in shown])
        )


def cosines(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    return nn.functional.cosine_similarity(ours, theirs.reshape(len(theirs), -1), dim=1)


def families() -> list[str]:
    """The two smallest networks of each of torchvision's modules, and those of known width."""
    by_module: dict[str, list[str]] = {}
    for name in TORCHVISION_NAMES:
        by_module.setdefault(get_model_builder(name).__module__, []).append(name)
    sizes = {name: get_model_weights(name).DEFAULT.meta["num_params"] for name in TORCHVISION_NAMES}
    smallest = {
        name for group in by_module.values() for name in sorted(group, key=sizes.__getitem__)[:2]
    }
    return sorted({*smallest, *backbones.DIMENSIONS, "vit_h_14"})


def test_the_names_are_torchvisions_own() -> None:
    assert list(TORCHVISION_NAMES) == sorted(list_models(module=torchvision.models))


@pytest.mark.parametrize("name", families())
def test_a_network_without_its_head_gives_features_of_its_width(name: str) -> None:
    spec = spec_of(name)
    side = architectures.make_transform(spec)(pictures(1)[0]).shape[-1]
    # Shapes alone are computed, but regnet's constructor computes with tensors of its own.
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        module, dim = backbones.build_untrained(spec)
        shape = module.eval()(torch.zeros(2, 3, side, side)).shape
    assert shape == (2, dim)
    assert backbones.known_dimension(spec) in (None, dim)


def test_the_widths_that_need_no_torch_are_of_networks_that_exist() -> None:
    assert set(backbones.DIMENSIONS) <= set(TORCHVISION_NAMES)
    assert backbones.known_dimension(spec_of("resnet18")) == 512
    assert backbones.known_dimension(spec_of("alexnet")) is None


def test_random_weights_follow_the_seed_and_leave_the_global_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, again, other = (
        backbones.load_backbone(spec_of(TINY, seed=seed, image_size=64)) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.rand(3), expected)
    assert one.identity("fp32") == again.identity("fp32") != other.identity("fp32")
    assert torch.equal(features(one, pictures()), features(again, pictures()))
    assert cosines(features(one, pictures()), features(other, pictures())).max() < 0.9


def test_the_id_names_the_network_and_changes_with_the_preprocessing() -> None:
    large, small = (backbones.load_backbone(spec_of(TINY, image_size=size)) for size in (96, 64))
    assert large.identity("fp32").startswith("mobilenet_v3_small-random0-")
    scaled = backbones.load_backbone(spec_of(TINY, image_size=64, decode="scaled"))
    ids = [one.identity("fp32") for one in (large, small, scaled)] + [small.identity("bf16")]
    assert len(set(ids)) == 4
    assert small.preprocessing.transform(pictures(1)[0]).shape == (3, 64, 64)


def test_the_id_is_the_same_in_another_process() -> None:
    program = (
        "from sightline.backbones import load_backbone; from sightline.config import BackboneSpec;"
        f"print(load_backbone(BackboneSpec(name={TINY!r}, weights='random', seed=3)).identity('fp32'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == backbones.load_backbone(spec_of(TINY, seed=3)).identity("fp32")


def mapped(backbone: Backbone, spec: BackboneSpec, precision: str = "fp32") -> Network:
    """The network that a worker makes of the shipped file. Its own random weights must not show through, so
    it is given another seed."""
    shipped = backbones.ship_weights(backbone, precision)
    other = spec.model_copy(update={"seed": 9})
    with local_path(shipped) as path:
        module, preprocessing = backbones.map_backbone(other, precision, path)
    assert preprocessing.geometry == backbone.preprocessing.geometry is not None
    return Network(module, preprocessing, precision)


# Those of timm keep buffers out of their state dict, or compute with tensors while they are built.
@pytest.mark.parametrize(
    "name",
    [TINY, "mnasnet0_5", "googlenet", "vit_b_32", "regnet_x_400mf", TINY_TIMM, "timm/test_vit"],
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_worker_maps_the_very_same_backbone(name: str, precision: str) -> None:
    spec = spec_of(name, image_size=64)
    backbone = backbones.load_backbone(spec)
    prepared = [backbone.preprocessing.prepare(np.array(one)) for one in pictures()]
    expected = Network(backbone.module, backbone.preprocessing, precision).embed(prepared)
    assert np.array_equal(mapped(backbone, spec, precision).embed(prepared), expected)


@pytest.mark.parametrize(
    ("name", "precision"), [("resnet18", "fp32"), ("resnet18", "bf16"), ("vit_b_32", "fp32")]
)
def test_a_worker_s_weights_lie_in_the_mapped_file(name: str, precision: str) -> None:
    spec = spec_of(name, image_size=64)
    network = mapped(backbones.load_backbone(spec), spec, precision)
    lines = Path("/proc/self/maps").read_text().splitlines()
    ranges = [line.split()[0].split("-") for line in lines if "weights.safetensors" in line]
    for name, value in network._module.named_parameters():
        at = value.data_ptr()
        assert any(int(begin, 16) <= at < int(end, 16) for begin, end in ranges), name
        assert at % 64 == 0


def test_the_file_of_weights_is_written_once_and_again_where_it_is_damaged() -> None:
    backbone = backbones.load_backbone(spec_of(TINY, image_size=64))
    shipped = backbones.ship_weights(backbone, "fp32")
    path = Path(shipped.url)
    written = path.stat()
    assert backbones.ship_weights(backbone, "fp32") == shipped
    assert path.stat().st_ino == written.st_ino
    assert hashlib.sha256(path.read_bytes()).hexdigest() == shipped.sha256 == path.parent.name
    os.truncate(path, 1000)
    assert backbones.ship_weights(backbone, "fp32") == shipped
    assert path.stat().st_size == shipped.size_bytes == written.st_size
    assert backbones.ship_weights(backbone, "bf16") != shipped


def test_a_fixed_size_network_is_built_for_the_image_size_of_the_dataset_file() -> None:
    assert backbones.load_backbone(spec_of("vit_b_32", image_size=64)).dim == 768
    with torch.device("meta"):
        module, dim = backbones.build_untrained(spec_of("maxvit_t", image_size=448))
        assert module.eval()(torch.zeros(1, 3, 448, 448)).shape == (1, dim)
    with pytest.raises(ConfigError, match="vit_b_32 .* 50 pixels .*backbone.image_size"):
        backbones.load_backbone(spec_of("vit_b_32", image_size=50))


def test_an_image_size_that_the_network_cannot_work_on_is_refused() -> None:
    with pytest.raises(ConfigError, match="alexnet .* 16 pixels .*backbone.image_size"):
        backbones.load_backbone(spec_of("alexnet", image_size=16))


def test_timm_networks_work_and_unknown_ones_are_refused() -> None:
    backbone = backbones.load_backbone(spec_of("timm/mobilenetv3_small_050", image_size=64))
    assert features(backbone, pictures()).shape == (3, backbone.dim) == (3, 1024)
    assert backbone.identity("fp32").startswith("timm.mobilenetv3_small_050-random0-")
    with pytest.raises(ConfigError, match="'timm/mobilenetv3_smal'; timm knows mobilenetv3_small"):
        backbones.load_backbone(spec_of("timm/mobilenetv3_smal"))
    with pytest.raises(ConfigError, match="'timm/nothing_like_it'; see timm.list_models"):
        backbones.load_backbone(spec_of("timm/nothing_like_it"))
    with pytest.raises(ConfigError, match="'timm/resnet18.never'; timm knows resnet18."):
        backbones.load_backbone(spec_of("timm/resnet18.never"))


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        (TINY, ".pth"),
        (TINY, ".safetensors"),
        ("mnasnet0_5", ".safetensors"),
        ("googlenet", ".pth"),
        (TINY_TIMM, ".pth"),
    ],
)
def test_weights_are_loaded_from_a_file(tmp_path: Path, name: str, suffix: str) -> None:
    trained = architectures.create(spec_of(name), None)
    path = tmp_path / f"it's trained{suffix}"
    save = torch.save if suffix == ".pth" else save_file
    save(trained.state_dict(), path)
    backbone = backbones.load_backbone(spec_of(name, str(path), image_size=64))
    state = backbone.module.state_dict()
    assert all(torch.equal(value, trained.state_dict()[key]) for key, value in state.items())
    assert len(state) >= 0.7 * len(trained.state_dict())
    assert not any(key.startswith("aux") for key in state)  # heads for training only
    assert "-it_s_trained-" in backbone.identity("fp32")  # it names a folder and stands in SQL
    spec = spec_of(name, str(path), image_size=64)
    prepared = [backbone.preprocessing.prepare(np.array(one)) for one in pictures()]
    expected = Network(backbone.module, backbone.preprocessing, "fp32").embed(prepared)
    assert np.array_equal(mapped(backbone, spec).embed(prepared), expected)


def test_the_id_changes_with_the_weights(tmp_path: Path) -> None:
    network = get_model(TINY)
    ids = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "weights.pth"
        torch.save({"state_dict": network.state_dict()}, path)
        ids += [backbones.load_backbone(spec_of(TINY, str(path))).identity("fp32")]
        with torch.no_grad():
            network.features[0][0].weight[0, 0, 0, 0] += 1e-6
    assert ids[0] != ids[1]


def test_torchvisions_old_densenet_names_are_understood(tmp_path: Path) -> None:
    state = get_model("densenet121").state_dict()
    old = {
        name.replace("norm1", "norm.1").replace("conv2", "conv.2"): state[name] for name in state
    }
    assert old.keys() != state.keys()
    torch.save(old, tmp_path / "densenet121-a639ec97.pth")
    spec = spec_of("densenet121", str(tmp_path / "densenet121-a639ec97.pth"), image_size=32)
    loaded = backbones.load_backbone(spec).module.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.items())


def broken_files(folder: Path) -> dict[str, bytes]:
    network = get_model("squeezenet1_1")
    whole, safe, legacy, picture = (io.BytesIO() for _ in range(4))
    torch.save(network.state_dict(), whole)
    torch.save(network.state_dict(), legacy, _use_new_zipfile_serialization=False)
    torch.save(network, picture)
    save_file(network.state_dict(), folder / "whole.safetensors")
    safe.write((folder / "whole.safetensors").read_bytes())
    numbers = io.BytesIO()
    torch.save({"epoch": 3, "loss": 0.1}, numbers)
    return {
        "cut.pth": whole.getvalue()[:200_000],
        "cut_legacy.pth": legacy.getvalue()[:200_000],
        "cut.safetensors": safe.getvalue()[:200_000],
        "whole_model.pth": picture.getvalue(),
        "page.pth": b"<html>404 Not Found</html>",
        "page.safetensors": b"<html>404 Not Found</html>",
        "empty.pth": b"",
        "numbers.pth": numbers.getvalue(),
    }


def test_a_broken_weights_file_is_refused_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "folder.pth").mkdir()
    for name, content in broken_files(tmp_path).items():
        (tmp_path / name).write_bytes(content)
        what = "no state dict" if name == "numbers.pth" else f"{len(content):,} bytes"
        with pytest.raises(WeightsError, match=what) as refused:
            backbones.load_backbone(spec_of("squeezenet1_1", str(tmp_path / name)))
        assert name in str(refused.value)
        assert "state_dict() to it" in str(refused.value)
    for name, sentence in {"folder.pth": "cannot be read", "none.pth": "does not exist"}.items():
        with pytest.raises(WeightsError, match=f"{name} .*{sentence}"):
            backbones.load_backbone(spec_of("squeezenet1_1", str(tmp_path / name)))


def test_a_file_of_another_network_is_refused_with_a_sentence(tmp_path: Path) -> None:
    torch.save(get_model("squeezenet1_0").state_dict(), tmp_path / "other.pth")
    for name in ("squeezenet1_1", "mobilenet_v2", TINY_TIMM):
        with pytest.raises(WeightsError, match=rf"other.pth does not fit {name}: .*backbone.name"):
            backbones.load_backbone(spec_of(name, str(tmp_path / "other.pth")))


def test_a_download_that_broke_off_is_refused_with_a_sentence(shared_data: Path) -> None:
    for path in sorted((shared_data / "weights_truncated").iterdir()):
        with pytest.raises(WeightsError, match=rf"{path.name} \({path.stat().st_size:,} bytes\)"):
            backbones.load_backbone(spec_of("resnet18", str(path)))


@contextmanager
def silent_proxy() -> Iterator[str]:
    """A proxy that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("name", ["resnet18", TINY_TIMM])
@pytest.mark.parametrize("silent", [False, True], ids=["refused", "silent"])
def test_weights_by_name_without_a_network_end_in_a_sentence_within_seconds(
    name: str, silent: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(weights, "NETWORK_TIMEOUT_SECONDS", 0.5)
    with silent_proxy() as url:
        for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(variable, url if silent else "http://127.0.0.1:9")
        started = time.monotonic()
        with pytest.raises(WeightsError, match=rf"'default' of {name} are neither .* 'random'"):
            backbones.load_backbone(spec_of(name, "default"))
    assert time.monotonic() - started < 15
    assert socket.getdefaulttimeout() is None


def test_unknown_weights_are_refused_with_those_that_exist() -> None:
    with pytest.raises(WeightsError, match="'IMAGENET1K_V9' of resnet50 .*IMAGENET1K_V2"):
        backbones.load_backbone(spec_of("resnet50", "IMAGENET1K_V9"))
    with pytest.raises(WeightsError, match=r"'IMAGENET1K_V1' of timm/resnet50 .*a1_in1k"):
        backbones.load_backbone(spec_of("timm/resnet50", "IMAGENET1K_V1"))


def test_inception_takes_its_input_as_torchvision_does_with_trained_weights(tmp_path: Path) -> None:
    network = get_model("inception_v3", init_weights=False)
    path = tmp_path / "inception.pth"
    torch.save(network.state_dict(), path)
    theirs = get_model("inception_v3", init_weights=False, transform_input=True).eval()
    theirs.load_state_dict(network.state_dict())
    theirs.fc = nn.Identity()
    ours = backbones.load_backbone(spec_of("inception_v3", str(path), image_size=128))
    batch = torch.stack([ours.preprocessing.transform(picture) for picture in pictures(2)])
    with torch.inference_mode():
        expected = theirs(batch)
        assert cosines(ours.module(batch), expected).min() > 0.99999
        theirs.transform_input = False
        assert cosines(ours.module(batch), theirs(batch)).min() < 0.99999


def test_a_dataset_files_image_size_keeps_the_rest_of_the_preprocessing() -> None:
    ours = architectures.make_transform(spec_of("efficientnet_b0", image_size=64))
    theirs = get_model_weights("efficientnet_b0").DEFAULT.transforms()
    assert (ours.crop_size, ours.resize_size) == ([64], [64])
    assert ours.interpolation == theirs.interpolation == transforms.InterpolationMode.BICUBIC


REFERENCES = {
    "resnet50": "resnet50-tfofficial-uint8w-fp16.pth",
    "mobilenet_v2": "mobilenet_v2-tfmodels-int8w.pth",
    "squeezenet1_0": "squeezenet1_0-deepcompression.pth",
}


@pytest.mark.parametrize("name", REFERENCES)
def test_real_weights_give_the_features_of_a_reference_by_hand(
    name: str, shared_data: Path
) -> None:
    path = shared_data / "weights" / REFERENCES[name]
    flowers = sorted((shared_data / "flowers").glob("*/*.jpg"))[::400]
    shown = [Image.open(flower).convert("RGB") for flower in flowers]
    network = get_model(name)
    network.load_state_dict(torch.load(path, weights_only=True))
    prepare = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    body = {
        "resnet50": lambda: nn.Sequential(*list(network.children())[:-1]),
        "mobilenet_v2": lambda: nn.Sequential(network.features, nn.AdaptiveAvgPool2d(1)),
        "squeezenet1_0": lambda: nn.Sequential(network.features, nn.AdaptiveAvgPool2d(1)),
    }[name]()
    with torch.inference_mode():
        expected = body.eval()(torch.stack([prepare(picture) for picture in shown]))
    backbone = backbones.load_backbone(spec_of(name, os.fspath(path)))
    assert len(shown) > 3
    assert cosines(features(backbone, shown), expected).min() >= 0.99999
