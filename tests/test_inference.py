"""Inference: the same features in any batch, precision and form of the network, within what is stated."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sightline import backbones, images
from sightline.backbones import Backbone
from sightline.backbones.inference import LEAST_COSINE, Network, agreement
from sightline.backbones.worker import prepare_picture
from sightline.config import BackboneSpec
from sightline.errors import ResourceError

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return backbones.load_backbone(BackboneSpec(name="resnet18", weights="random", image_size=64))


def pictures(count: int, side: int = 64) -> list[torch.Tensor]:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    shown = [Image.fromarray(one).resize((side, side)) for one in coarse]
    return [torch.from_numpy(np.array(one)).permute(2, 0, 1) for one in shown]


def cosines(ours: "np.ndarray[tuple[int, int], np.dtype[np.float32]]", theirs: object) -> float:
    one, other = torch.tensor(ours), torch.as_tensor(theirs)
    return float(nn.functional.cosine_similarity(one, other).min())


def test_bf16_gives_nearly_the_features_of_fp32(backbone: Backbone) -> None:
    shown = pictures(11)
    exact = Network(backbone.module, backbone.preprocessing, "fp32").embed(shown)
    fast = Network(backbone.module, backbone.preprocessing, "bf16").embed(shown)
    assert exact.dtype == fast.dtype == np.float32
    assert exact.shape == fast.shape == (11, 512)
    assert LEAST_COSINE < cosines(fast, exact) < 0.999999  # near, and not in truth fp32
    parts = [
        Network(backbone.module, backbone.preprocessing, "bf16").embed(shown[start : start + 3])
        for start in range(0, 11, 3)
    ]
    assert cosines(np.concatenate(parts), fast) > 0.9999
    state = backbone.module.state_dict().values()
    assert all(value.dtype != torch.bfloat16 for value in state)  # the module is left as it was
    assert any("BatchNorm" in type(layer).__name__ for layer in backbone.module.modules())


def test_the_check_tells_a_network_that_bf16_spoils(backbone: Backbone) -> None:
    assert agreement(backbone.module, backbone.preprocessing, pictures(4)) > LEAST_COSINE

    class Cancelling(nn.Module):
        """A small difference of large numbers, which 8 bits of mantissa do not hold."""

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return (batch.flatten(1)[:, :64] + 1000.0) - 1000.0

    class Overflowing(nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return batch.flatten(1)[:, :8] * (float("inf") if batch.dtype == torch.bfloat16 else 1)

    for spoilt in (Cancelling(), Overflowing()):
        assert not agreement(spoilt, backbone.preprocessing, pictures(4)) >= LEAST_COSINE


def test_a_batch_too_large_for_the_device_is_halved_until_it_fits(
    backbone: Backbone, caplog: pytest.LogCaptureFixture
) -> None:
    class Small(nn.Module):
        """A device with room for so many pictures."""

        room = 3

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            if len(batch) > self.room:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return batch.mean(dim=(2, 3))

    shown = pictures(19)
    small = Small()
    network = Network(small, backbone.preprocessing, "fp32")
    found = network.embed(shown)
    assert network.batch_size == 2
    assert caplog.text.count("Out of memory") == 2  # and never again
    small.room = 1000
    roomy = Network(small, backbone.preprocessing, "fp32").embed(shown)
    assert np.allclose(found, roomy, atol=1e-6)
    small.room = 0
    with pytest.raises(ResourceError, match="One picture is too much for the memory of cpu"):
        network.embed(shown)


# torch's compiler asks every loaded module for `torch`, and deprecated ones of Airflow's answer so.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The `airflow.*torch`")
def test_a_compiled_network_gives_the_same_features_and_takes_any_number(
    backbone: Backbone,
) -> None:
    shown = pictures(13)
    eager = Network(backbone.module, backbone.preprocessing, "bf16").embed(shown)
    network = Network(backbone.module, backbone.preprocessing, "bf16", compiles=True)
    assert cosines(network.embed(shown), eager) > LEAST_COSINE
    assert network._is_compiled
    assert cosines(network.embed(shown[:1]), eager[:1]) > LEAST_COSINE


def test_what_cannot_be_compiled_or_traced_works_all_the_same(
    backbone: Backbone, caplog: pytest.LogCaptureFixture
) -> None:
    class Odd(nn.Module):
        """Its code takes a way that depends on the data, and it never returns from the compiler."""

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            if torch.compiler.is_compiling():
                raise RuntimeError("not here")
            return batch.mean(dim=(2, 3)) if batch.sum() > 0 else batch.amax(dim=(2, 3))

    network = Network(Odd(), backbone.preprocessing, "bf16", compiles=True)
    assert network.embed(pictures(3)).shape == (3, 3)


@pytest.mark.parametrize(
    ("name", "file", "agrees"),
    [
        ("resnet50", "resnet50-tfofficial-uint8w-fp16.pth", True),
        ("mobilenet_v2", "mobilenet_v2-tfmodels-int8w.pth", False),
    ],
)
def test_real_weights_on_real_photos(name: str, file: str, agrees: bool, shared_data: Path) -> None:
    """The whole fast way against the whole reference, and the check that lets it be taken."""
    spec = BackboneSpec(name=name, weights=str(shared_data / "weights" / file))
    backbone = backbones.load_backbone(spec)
    contents = [
        path.read_bytes() for path in sorted((shared_data / "flowers").glob("*/*.jpg"))[::105]
    ]
    shown = [prepare_picture(spec, backbone.preprocessing, content, 0) for content in contents]
    exact = torch.stack(
        [backbone.preprocessing.transform(images.decode(content)) for content in contents]
    )
    with torch.inference_mode():
        reference = backbone.module(exact)
    fp32 = Network(backbone.module, backbone.preprocessing, "fp32").embed(shown)
    assert cosines(fp32, reference) > 0.9995
    least = agreement(backbone.module, backbone.preprocessing, shown)
    assert (least >= LEAST_COSINE) == agrees
    if agrees:
        bf16 = Network(backbone.module, backbone.preprocessing, "bf16").embed(shown)
        assert cosines(bf16, reference) >= LEAST_COSINE
