"""The parts of fine-tuning: what learns, losses, schedules, augmentation, checkpoints."""

import copy
import hashlib
import json
import math
import pickle
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from sightline import backbones, models
from sightline.backbones import Backbone
from sightline.config import BackboneSpec
from sightline.errors import ConfigError, TrainingError
from sightline.fine_tune_config import FineTuneSpec, TunedHeadSpec
from sightline.fine_tuning import recipes
from sightline.fine_tuning.augmentation import make_augmentation, make_mixing, views
from sightline.fine_tuning.checkpoints import (
    Epoch,
    Progressed,
    read_checkpoint,
    read_weights,
    write_checkpoint,
    write_weights,
)
from sightline.fine_tuning.network import (
    TunedNetwork,
    find_folded,
    let_learn,
    make_network,
    set_modes,
)
from sightline.fine_tuning.tuned_models import load_tuned, save_tuned, weights_url
from tests.conftest import catalog_of, write_dataset

SPEC = BackboneSpec(name="resnet18", weights="random", image_size=32)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return backbones.load_backbone(SPEC)


@pytest.fixture
def network(backbone: Backbone) -> TunedNetwork:
    own = replace(backbone, module=copy.deepcopy(backbone.module))
    return make_network(own, TunedHeadSpec(), 3, seed=0)


def learning(network: nn.Module) -> set[str]:
    """The layers that learn."""
    named = network.named_parameters()
    return {name.rpartition(".")[0] for name, one in named if one.requires_grad}


def test_the_head_alone_learns(network: TunedNetwork) -> None:
    let_learn(network, "head")
    assert learning(network) == {"head.0"}


def test_the_vehicles_policy_is_head_norms_and_the_last_two_convolutions(
    network: TunedNetwork,
) -> None:
    let_learn(network, "head+bn+last_2_convs")
    norms = {name for name, one in network.named_modules() if isinstance(one, nn.BatchNorm2d)}
    convolutions = {"backbone.layer4.1.conv1", "backbone.layer4.1.conv2"}
    assert len(norms) == 20
    assert learning(network) == {"head.0"} | norms | convolutions


def test_half_is_the_later_half_and_all_is_everything(network: TunedNetwork) -> None:
    let_learn(network, "half")
    half = learning(network)
    assert "backbone.layer4.1.conv2" in half
    assert "backbone.conv1" not in half
    let_learn(network, "all")
    assert len(half) == 1 + (len(learning(network)) - 1) // 2


@pytest.mark.parametrize("trainable", ["head", "head+bn", "all"])
def test_norms_that_do_not_learn_keep_their_statistics(
    network: TunedNetwork, trainable: str
) -> None:
    let_learn(network, trainable)
    before = {name: value.clone() for name, value in network.named_buffers()}
    network(torch.randn(4, 3, 32, 32) * 5)
    moved = {name for name, value in network.named_buffers() if not value.equal(before[name])}
    assert bool(moved) == (trainable != "head")
    set_modes(network, training=False)
    after = {name: value.clone() for name, value in network.named_buffers()}
    network(torch.randn(4, 3, 32, 32) * 5)
    assert all(value.equal(after[name]) for name, value in network.named_buffers())


def test_folded_norms_learn_but_keep_the_statistics_that_they_never_had(
    network: TunedNetwork,
) -> None:
    norm = network.get_submodule("backbone.bn1")
    norm.bias.data.fill_(0.3)  # type: ignore[union-attr,operator]
    find_folded(network)
    assert network.folded == {norm}  # a norm that was never trained has no shift
    let_learn(network, "head+bn")
    network(torch.randn(4, 3, 32, 32) * 5)
    assert not norm.running_mean.any()  # type: ignore[union-attr,operator]
    assert network.get_submodule("backbone.layer1.0.bn1").running_mean.any()  # type: ignore[union-attr,operator]
    assert all(parameter.requires_grad for parameter in norm.parameters())


def test_more_convolutions_than_there_are_end_in_a_sentence(network: TunedNetwork) -> None:
    with pytest.raises(TrainingError, match="last 99 convolutions, but the backbone has 20;"):
        let_learn(network, "head+bn+last_99_convs")


@pytest.mark.parametrize("name", ["heads", "head+bn+last_0_convs", "bn", "head+last_2_convs", ""])
def test_an_unknown_policy_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="is none of head, head\\+bn"):
        FineTuneSpec(trainable=name)


def test_the_seed_decides_the_head_and_nothing_else(backbone: Backbone) -> None:
    def head(seed: int) -> torch.Tensor:
        return make_network(backbone, TunedHeadSpec(hidden=4), 3, seed).head[0].weight  # type: ignore[index,union-attr,return-value]

    torch.manual_seed(1)
    one = head(0)
    torch.manual_seed(2)
    drawn = torch.initial_seed()
    assert one.equal(head(0))
    assert not one.equal(head(1))
    assert torch.initial_seed() == drawn


def test_a_head_has_the_layers_that_are_asked_for(backbone: Backbone) -> None:
    spec = TunedHeadSpec(batch_norm=True, dropout=0.3, hidden=16)
    head = make_network(backbone, spec, 5, 0).head
    kinds = [type(layer).__name__ for layer in head]  # type: ignore[union-attr,arg-type]
    assert kinds == ["Linear", "ReLU", "BatchNorm1d", "Dropout", "Linear"]


LOGITS = torch.tensor([[2.0, 0.5, -1.0], [0.1, 0.2, 0.3]])
SHARES = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])


def test_losses_are_those_of_their_names() -> None:
    classes = SHARES.argmax(dim=1)
    plain = recipes.LOSSES["cross_entropy"](FineTuneSpec())(LOGITS, SHARES, None)
    assert plain.item() == pytest.approx(nn.functional.cross_entropy(LOGITS, classes).item())
    smooth = recipes.LOSSES["label_smoothing"](FineTuneSpec(label_smoothing=0.2))
    wanted = nn.functional.cross_entropy(LOGITS, classes, label_smoothing=0.2)
    assert smooth(LOGITS, SHARES, None).item() == pytest.approx(wanted.item())
    assert recipes.focal(0.0)(LOGITS, SHARES, None).item() == pytest.approx(plain.item())
    assert recipes.focal(2.0)(LOGITS, SHARES, None) < plain


@given(st.floats(0, 1))
def test_schedules_stay_between_nothing_and_the_whole_rate(come: float) -> None:
    for schedule in recipes.SCHEDULES.values():
        assert 0 < schedule(come) <= 1


def test_one_cycle_rises_then_falls_and_cosine_falls() -> None:
    steps = [recipes.one_cycle(step / 100) for step in range(101)]
    peak = steps.index(max(steps))
    assert 25 <= peak <= 35
    assert steps[peak] == pytest.approx(1)
    assert all(one < other for one, other in pairwise(steps[: peak + 1]))
    falling = [recipes.cosine(step / 100) for step in range(101)]
    for values in (steps[peak:], falling):
        assert all(one > other for one, other in pairwise(values))


@pytest.mark.parametrize(
    ("losses", "factor"),
    [([], 1), ([3, 2, 1], 1), ([1, 2], 1), ([1, 2, 2], 0.1), ([1, 2, 2, 0.5, 1, 1, 1, 1], 0.001)],
)
def test_the_rate_falls_on_each_plateau(losses: list[float], factor: float) -> None:
    assert recipes.plateau_factor(losses, 2) == pytest.approx(factor)


def test_epochs_are_counted_from_the_best() -> None:
    assert recipes.epochs_without_better([]) == 0
    assert recipes.epochs_without_better([3, 1, 2, 2]) == 2


PIXELS = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
PIPELINE = ({"HorizontalFlip": {"p": 0.5}}, {"RandomBrightnessContrast": {"p": 1.0}})


@pytest.mark.parametrize("wanted", ["none", "flips", "crops", "imagenet", "randaugment", PIPELINE])
def test_an_augmentation_gives_what_the_network_takes_and_follows_the_seed(
    backbone: Backbone, wanted: Any
) -> None:
    def drawn(seed: int) -> list[torch.Tensor]:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            vary = make_augmentation(wanted, backbone.preprocessing, seed)
            return [vary(PIXELS) for _ in range(4)]

    first = drawn(1)
    assert {(one.shape, one.dtype) for one in first} == {((3, 32, 32), torch.uint8)}
    assert all(map(torch.equal, first, drawn(1)))
    differs = not all(map(torch.equal, first, drawn(2)))
    assert differs == (wanted != "none")


def test_an_augmentation_works_with_a_preprocessing_of_its_own_kind() -> None:
    squash = backbones.preprocessing_of(BackboneSpec(name="timm/test_vit", weights="random"))
    plain = type(squash)(squash.transform, None)
    vary = make_augmentation("crops", plain, 0)
    assert vary(PIXELS).dtype == torch.float32
    assert vary(PIXELS).shape == plain.prepare(PIXELS).shape


@pytest.mark.parametrize(
    ("wanted", "problem"),
    [
        ({"HorizontalFlop": {}}, "no transform 'HorizontalFlop'"),
        ({"Compose": {}}, "no transform 'Compose'"),
        ({"HorizontalFlip": {"chance": 1}}, "HorizontalFlip: .*chance"),
    ],
)
def test_an_unknown_transform_or_setting_is_refused(
    backbone: Backbone, wanted: dict[str, dict[str, Any]], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        make_augmentation((wanted,), backbone.preprocessing, 0)


def test_mixing_shares_out_the_labels() -> None:
    assert make_mixing(0, 0, 3) is None
    for mixing in (make_mixing(0.5, 0, 3), make_mixing(0, 1.0, 3), make_mixing(0.5, 1.0, 3)):
        assert mixing is not None
        pictures, shares = mixing(torch.rand(8, 3, 16, 16), torch.arange(8) % 3)
        assert pictures.shape == (8, 3, 16, 16)
        np.testing.assert_allclose(shares.sum(dim=1), 1, rtol=1e-6)


def test_views_are_of_the_whole_picture_first() -> None:
    assert [len(views(names)) for names in ((), ("flips",), ("crops",), ("scales",))] == [
        1,
        2,
        5,
        3,
    ]
    every = views(("flips", "crops", "scales"))
    assert len(every) == 14
    assert len(set(every)) == 14
    np.testing.assert_array_equal(every[0].of(PIXELS), PIXELS)
    np.testing.assert_array_equal(every[7].of(PIXELS), PIXELS[:, ::-1])
    assert {one.of(PIXELS).shape for one in views(("crops",))} == {(60, 80, 3), (51, 68, 3)}
    assert views(("scales",))[2].of(PIXELS[:1, :1]).shape == (1, 1, 3)


def trained_a_little(network: TunedNetwork, optimizer: torch.optim.Optimizer) -> None:
    network(torch.randn(4, 3, 32, 32)).sum().backward()
    optimizer.step()


@pytest.mark.parametrize("name", sorted(recipes.OPTIMIZERS))
def test_a_checkpoint_brings_weights_optimiser_and_history_back(
    tmp_path: Path, network: TunedNetwork, name: str
) -> None:
    url = str(tmp_path / "new" / "checkpoint.safetensors")
    assert read_checkpoint(url) is None
    let_learn(network, "head")
    learning = [one for one in network.parameters() if one.requires_grad]
    optimizer = recipes.OPTIMIZERS[name](learning, FineTuneSpec())
    trained_a_little(network, optimizer)
    weights = network.state_dict()
    history = [Epoch(1, 0.5, 0.7, math.pi, 0.6, 1e-3, 10.0, 2.0)]
    come = Progressed(weights, {"a": torch.ones(2)}, optimizer.state_dict(), history)
    write_checkpoint(url, come)
    again = read_checkpoint(url)
    assert again is not None
    assert again.history == history
    assert all(value.equal(again.network[key]) for key, value in weights.items())
    assert again.best["a"].equal(torch.ones(2))
    fresh = recipes.OPTIMIZERS[name](learning, FineTuneSpec())
    fresh.load_state_dict(again.optimizer)
    one, other = fresh.state_dict(), optimizer.state_dict()
    assert json.dumps(one["param_groups"]) == json.dumps(other["param_groups"])
    assert one["state"].keys() == other["state"].keys()
    for number, state in one["state"].items():
        assert {key: str(value) for key, value in state.items()} == {
            key: str(value) for key, value in other["state"][number].items()
        }


def test_a_model_s_network_is_mapped_from_its_file(network: TunedNetwork, own_places: Path) -> None:
    catalog = catalog_of(write_dataset(own_places, "photos", "source: {type: digits}\n"))
    tuning = {
        "backbone": SPEC.model_dump(mode="json"),
        "settings": FineTuneSpec().model_dump(mode="json"),
    }
    model = {"version": "v1-tuned", "kind": models.FINE_TUNED, "labels": ["a", "b", "c"]}
    write_weights(str(own_places / "checkpoint"), network.state_dict())
    state = read_weights(
        str(own_places / "checkpoint")
    )  # in channels-last order, as it was trained
    assert not all(value.is_contiguous() for value in state.values())
    save_tuned(catalog, {**model, "fine_tuning": tuning}, state)
    held = Path(weights_url(catalog, "v1-tuned"))
    kept = models.read_model(catalog, "v1-tuned")
    assert kept is not None
    assert kept["weights_sha256"] == hashlib.sha256(held.read_bytes()).hexdigest()
    tuned = load_tuned(catalog, "v1-tuned")
    assert len(pickle.dumps(tuned)) < 10_000  # it goes to each Spark task
    module, preprocessing = tuned.build()
    assert str(held) in Path("/proc/self/maps").read_text()
    pictures = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(module(pictures), network.eval()(pictures))
    for name, value in state.items():
        assert torch.equal(module.state_dict()[name], value), name
    earlier = {name: value for name, value in kept.items() if name != "weights_sha256"}
    models.write_model(catalog, earlier)  # as versions before this one wrote it
    assert load_tuned(catalog, "v1-tuned").weights.url == str(held)
