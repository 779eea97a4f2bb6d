"""The estimate of a training's memory, against real trainings and against shapes worked out by hand."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sightline.config import BackboneSpec, DatasetSpec
from sightline.fine_tune_config import FineTuneSpec
from sightline.fine_tuning.estimate import build_on_meta, estimate_training, measure_activations
from sightline.fine_tuning.network import let_learn
from tests.conftest import write_dataset

MEASURED = """
import json, sys, torch
from pathlib import Path
from sightline.config import BackboneSpec
from sightline.fine_tune_config import FineTuneSpec, TunedHeadSpec
from sightline.fine_tuning import recipes
from sightline.fine_tuning.network import empty_network, let_learn

def status(name):
    rows = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(rows[name].split()[0]) * 1024

torch.set_num_threads(1)
before, (name, size, pictures) = status("VmRSS"), (sys.argv[1], *map(int, sys.argv[2:]))
backbone = BackboneSpec(name=name, weights="random", image_size=size)
network = empty_network(backbone, TunedHeadSpec(), 3)
let_learn(network, "all")
optimizer = recipes.OPTIMIZERS["adamw"](list(network.parameters()), FineTuneSpec())
for _ in range(2):
    optimizer.zero_grad(set_to_none=True)
    network(torch.ones(pictures, 3, size, size)).sum().backward()
    optimizer.step()
print(json.dumps([before, status("VmHWM")]))
"""


def spec_of(places: Path, more: str) -> DatasetSpec:
    return write_dataset(places, "photos", f"source: {{type: digits}}\n{more}\n")


def test_a_real_training_holds_what_was_estimated_or_somewhat_more(own_places: Path) -> None:
    name, size, pictures = "mobilenet_v2", 160, 16
    text = f"backbone: {{name: {name}, weights: random, image_size: {size}}}\n"
    spec = spec_of(own_places, text + "fine_tune: {trainable: all, precision: fp32}")
    needs = estimate_training(spec, 3)
    fixed = needs.weights + needs.gradients + needs.optimizer
    expected = fixed + needs.all_activations / 2 * pictures
    command = [sys.executable, "-c", MEASURED, name, str(size), str(pictures)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    before, peak = json.loads(done.stdout)
    assert 0.6 <= expected / (peak - before) <= 1.05
    assert 0.7 * before <= needs.program <= before


def test_activations_are_those_of_the_shapes(own_places: Path) -> None:
    """VGG11's convolutions and ReLUs (in place), pools with their indices (int64), at 32 pixels."""
    backbone = BackboneSpec(name="vgg11", weights="random", image_size=32)
    network = build_on_meta(backbone, FineTuneSpec(), 3)
    let_learn(network, "all")
    pixels = {
        32: (3, 64),
        16: (64, 128),
        8: (128, 256, 256),
        4: (256, 512, 512),
        2: (512, 512, 512),
    }
    convolved = sum(side**2 * sum(channels) for side, channels in pixels.items()) * 4
    pooled = sum((side // 2) ** 2 * channels[-1] for side, channels in pixels.items()) * 8
    found = measure_activations(network, 32).whole / 2
    assert convolved + pooled < found < 1.3 * (convolved + pooled)  # and the classifier's layers
    assert measure_activations(network, 32, bytes_a_number=2).whole == pytest.approx(found)


def test_frozen_layers_keep_nothing() -> None:
    backbone = BackboneSpec(name="resnet18", weights="random", image_size=64)
    network = build_on_meta(backbone, FineTuneSpec(), 3)
    kept = {}
    for trainable in ("head", "half", "all"):
        let_learn(network, trainable)
        kept[trainable] = measure_activations(network, 64).whole
    assert kept["head"] == 2 * 512 * 4  # the features alone
    assert kept["head"] < kept["half"] < kept["all"]


@pytest.mark.parametrize("name", ["efficientnet_b6", "vit_b_16", "timm/resnet50"])
def test_activation_checkpointing_keeps_far_less(name: str) -> None:
    backbone = BackboneSpec(name=name, weights="random")
    network = build_on_meta(backbone, FineTuneSpec(), 3)
    assert all(parameter.is_meta for parameter in network.parameters())
    let_learn(network, "all")
    kept = measure_activations(network, 224)
    assert kept.checkpointed < 0.8 * kept.whole


@pytest.mark.parametrize("name", ["inception_v3", "googlenet"])
def test_networks_with_auxiliary_heads_have_one_output_in_training_mode(name: str) -> None:
    network = build_on_meta(BackboneSpec(name=name, weights="random"), FineTuneSpec(), 3)
    let_learn(network, "all")
    assert measure_activations(network, 299).whole > 0


def test_the_hungriest_of_all_phases_sizes_and_optimisers_counts(own_places: Path) -> None:
    tuned = "backbone: {name: resnet18, weights: random, image_size: 64}\n"
    phases = "phases: [{trainable: head, epochs: 1, learning_rate: 0.1}, "
    phases += "{trainable: half, epochs: 1, learning_rate: 0.1}]"
    needs = estimate_training(
        spec_of(own_places, f"{tuned}fine_tune: {{{phases}, optimizer: sgd, momentum: 0}}"), 3
    )
    assert (needs.trainable, needs.image_size, needs.optimizer) == ("half", 64, 0)
    search = "search: {image_size: [64, 96], optimizer: [sgd, adam]}, trainable: all"
    needs = estimate_training(spec_of(own_places, f"{tuned}fine_tune: {{{phases}, {search}}}"), 3)
    assert (needs.trainable, needs.image_size) == ("all", 96)
    assert needs.optimizer == 2 * needs.gradients
