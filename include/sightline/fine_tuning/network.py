"""A backbone with a head of its own for the dataset's classes, and which of its layers learn."""

from typing import TYPE_CHECKING

import torch
from torch import nn

from sightline import backbones
from sightline.backbones import Backbone
from sightline.errors import TrainingError
from sightline.fine_tune_config import TunedHeadSpec

if TYPE_CHECKING:
    from sightline.config import BackboneSpec

NORMS = nn.modules.batchnorm._BatchNorm


class TunedNetwork(nn.Module):
    """Pictures (n, 3, h, w) to logits (n, classes)."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.folded: set[nn.Module] = set()

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Logits, not normalised."""
        logits: torch.Tensor = self.head(self.backbone(pictures).flatten(1))
        return logits


def make_network(backbone: Backbone, head: TunedHeadSpec, classes: int, seed: int) -> TunedNetwork:
    """The backbone's weights under a new head, whose weights the seed alone decides."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        made = make_head(head, backbone.dim, classes)
    return TunedNetwork(backbone.module, made).to(memory_format=torch.channels_last)


def empty_network(spec: "BackboneSpec", head: TunedHeadSpec, classes: int) -> TunedNetwork:
    """The same network for weights that are loaded next."""
    module, dim = backbones.build_untrained(spec)
    return TunedNetwork(module, make_head(head, dim, classes))


def make_head(spec: TunedHeadSpec, dim: int, classes: int) -> nn.Sequential:
    """Features (n, dim) to logits (n, classes)."""
    layers: list[nn.Module] = []
    if spec.hidden is not None:
        layers += [nn.Linear(dim, spec.hidden), nn.ReLU()]
        dim = spec.hidden
    if spec.batch_norm:
        layers.append(nn.BatchNorm1d(dim))
    if spec.dropout:
        layers.append(nn.Dropout(spec.dropout))
    return nn.Sequential(*layers, nn.Linear(dim, classes))


def find_folded(network: TunedNetwork) -> None:
    """Note the batch norms that some published weights have folded into the convolutions before them:
    a scale of 1 and a shift alone. They never saw statistics, so a batch's would upset all that follows.
    """
    norms = (module for module in network.backbone.modules() if isinstance(module, NORMS))
    network.folded = {norm for norm in norms if _is_folded(norm)}


def _is_folded(norm: nn.Module) -> bool:
    mean, variance, scale, shift = norm.running_mean, norm.running_var, norm.weight, norm.bias
    if not all(isinstance(one, torch.Tensor) for one in (mean, variance, scale, shift)):
        return False
    has_none = not mean.any() and variance.eq(variance[0]).all()  # type: ignore[operator,index]
    return bool(has_none and scale.eq(scale[0]).all() and shift.any())  # type: ignore[operator,index]


def let_learn(network: TunedNetwork, trainable: str) -> None:
    """Let the named layers learn and no others; see `fine_tune_config.Trainable`.

    A batch norm that does not learn, or is folded, keeps its statistics.
    """
    network.requires_grad_(False)
    for module in _learning(network, trainable):
        module.requires_grad_(True)
    set_modes(network, training=True)


def set_modes(network: TunedNetwork, *, training: bool) -> None:
    """Training mode for all but the batch norms that do not learn, or evaluation mode for all."""
    network.train(training)
    for module in network.modules():
        if isinstance(module, NORMS) and (module in network.folded or not _learns(module)):
            module.eval()


def average_norms(network: TunedNetwork, processes: int) -> None:
    """Give every process the same running statistics: those of the batches of all of them.

    A batch norm in training mode sees its own process's images only. The variance is the mean of the
    processes' variances plus the variance of their means. All processes must call this together.
    """
    if processes == 1:
        return
    norms = (module for module in network.modules() if isinstance(module, NORMS))
    for mean, variance in ((one.running_mean, one.running_var) for one in norms if one.training):
        if mean is not None and variance is not None:
            own = mean.clone()
            mean.copy_(_mean_over_processes(own, processes))
            variance.copy_(_mean_over_processes(variance + (own - mean) ** 2, processes))


def _mean_over_processes(values: torch.Tensor, processes: int) -> torch.Tensor:
    total = values.clone()
    torch.distributed.all_reduce(total)
    return total / processes


def _learning(network: TunedNetwork, trainable: str) -> list[nn.Module]:
    if trainable == "all":
        return [network]
    modules = list(network.backbone.modules())
    if trainable == "half":
        layers = [module for module in modules if list(module.parameters(recurse=False))]
        return [network.head, *layers[len(layers) // 2 :]]
    parts = trainable.split("+")
    chosen: list[nn.Module] = [network.head]
    if "bn" in parts:
        chosen += [module for module in modules if isinstance(module, NORMS)]
    if parts[-1].startswith("last_"):
        count = int(parts[-1].split("_")[1])
        chosen += _last_convolutions(modules, count)
    return chosen


def _last_convolutions(modules: list[nn.Module], count: int) -> list[nn.Module]:
    convolutions = [module for module in modules if isinstance(module, nn.Conv2d)]
    if len(convolutions) < count:
        raise TrainingError(
            f"fine_tune.trainable names the last {count} convolutions, but the backbone has "
            f"{len(convolutions)}; name fewer, or use half or all."
        )
    return list(convolutions[-count:])


def _learns(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())
