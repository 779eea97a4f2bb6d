"""A backbone at work in one process: prepared pictures in, embeddings out, as fast as its device can.

Precision is fp32, the reference, or bf16, two to seven times as fast where the hardware has it. Two ways
to the same features differ in rounding alone: their cosine is above `LEAST_COSINE`.
"""

import copy
import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from sightline.backbones.preprocessing import Preprocessing
from sightline.errors import ResourceError

if TYPE_CHECKING:
    import torch
    from torch import nn

log = logging.getLogger(__name__)

Array = np.ndarray[Any, Any]
LEAST_COSINE = 0.999
BATCH_SIZE = {"cpu": 8, "cuda": 256}  # on a CPU, what its caches hold
# Weights packed for the hardware; a core a worker.
INDUCTOR: dict[str, Any] = {"freezing": True, "cpp.threads": 1}


def has_bf16() -> bool:
    """Whether the GPU, or without one the processor, multiplies bf16 numbers itself; where it does not,
    they are slower than fp32's.
    """
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    can = torch.cpu.get_capabilities()
    return any(can.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


class Network:
    """A module on its device, in its precision; `batch_size` pictures at a time.

    `compiles`: half a minute of torch's compiler before the first batch, for up to twice the speed.
    """

    def __init__(
        self,
        module: "nn.Module",
        preprocessing: Preprocessing,
        precision: str,
        device: str = "cpu",
        compiles: bool = False,
    ) -> None:
        import torch

        self.batch_size = BATCH_SIZE[device.partition(":")[0]]
        self.device = device
        self.preprocessing = preprocessing
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self._module = _ready(module, precision, device)
        self._compiles, self._is_compiled = compiles, False

    def embed(self, pictures: "list[torch.Tensor]") -> Array:
        """Embeddings, float32 (n, dim), of n prepared pictures."""
        import torch

        found: list[Array] = []
        start = 0
        with torch.inference_mode():
            while start < len(pictures):
                batch = torch.stack(pictures[start : start + self.batch_size])
                if self._compiles:
                    self._compile(batch)
                try:
                    found.append(self._forward(batch).float().cpu().numpy())
                    start += len(batch)
                except torch.OutOfMemoryError as error:
                    self._halve(len(batch), error)
        return np.concatenate(found)

    def release(self) -> None:
        """Leave the device to others; the network cannot be used any more."""
        import torch

        del self._module
        torch.cuda.empty_cache()

    def _compile(self, batch: "torch.Tensor") -> None:
        """Where the compiler cannot, all stays as it is."""
        import torch
        from torch._inductor import config

        self._compiles = False
        config.compile_threads = 1  # no processes beside this one
        eager = self._module
        self._module = torch.compile(eager, dynamic=False, options=INDUCTOR)  # type: ignore[assignment]
        self._is_compiled = True
        try:
            self._forward(batch)
        except Exception as error:  # each of the compiler's passes raises its own
            self._module, self._is_compiled = eager, False
            reason = " ".join(str(error).split())[:300]
            log.warning("Not compiled (%s: %s); goes on without.", type(error).__name__, reason)

    def _forward(self, batch: "torch.Tensor") -> "torch.Tensor":
        """(n, 3, h, w) to (n, dim)."""
        import torch

        ready = self._padded(batch).to(self.device)
        ready = self.preprocessing.normalise(ready).to(self._dtype)
        ready = ready.contiguous(memory_format=torch.channels_last)
        embeddings: torch.Tensor = self._module(ready).flatten(1)
        return embeddings[: len(batch)]

    def _halve(self, count: int, error: Exception) -> None:
        """Work on with half the batch that the device's memory did not suffice for."""
        import torch

        if count == 1:
            raise ResourceError(
                f"One picture is too much for the memory of {self.device} ({error}); free it from other "
                "work, or choose a smaller backbone or backbone.image_size."
            ) from error
        torch.cuda.empty_cache()
        self.batch_size = count // 2
        log.warning("Out of memory on %s: batches of %d from here.", self.device, self.batch_size)

    def _padded(self, batch: "torch.Tensor") -> "torch.Tensor":
        """Compiled code is for one shape: the last batch is filled up with its first picture."""
        import torch

        missing = self.batch_size - len(batch)
        if not self._is_compiled or missing <= 0:
            return batch
        return torch.cat([batch, batch[:1].expand(missing, -1, -1, -1)])


def in_precision(module: "nn.Module", precision: str) -> "nn.Module":
    """In fp32 the module as it is; else one in the other precision, its batch norms folded into the
    convolutions before them if the module's code can be traced. The module given is left as it was.
    """
    import torch

    if precision == "fp32":
        return module
    return _folded(module).to(torch.bfloat16).to(memory_format=torch.channels_last)


def _ready(module: "nn.Module", precision: str, device: str) -> "nn.Module":
    """The module in its precision on its device; one that is in bf16 already was folded before."""
    import torch

    first = next(module.parameters(), None)
    if first is None or first.dtype != torch.bfloat16:
        module = in_precision(module, precision)
    if device != "cpu":
        module = _twin(module).to(device)
    return module.to(memory_format=torch.channels_last)


def _folded(module: "nn.Module") -> "nn.Module":
    from torch.fx.experimental.optimization import fuse

    try:
        return fuse(_twin(module), inplace=True)
    except Exception:  # tracing meets whatever the module's code does
        return _twin(module)


def _twin(module: "nn.Module") -> "nn.Module":
    """A copy of the module that shares its weights until they are exchanged, as `to` does."""
    from torch import nn

    memo: dict[int, Any] = {id(one): nn.Parameter(one.data, False) for one in module.parameters()}
    memo |= {id(one): one.view_as(one) for one in module.buffers()}
    return copy.deepcopy(module, memo)


def agreement(
    module: "nn.Module", preprocessing: Preprocessing, pictures: "list[torch.Tensor]"
) -> float:
    """The least cosine between the bf16 and the fp32 features of the same prepared pictures."""
    import torch

    exact, fast = (
        Network(module, preprocessing, precision).embed(pictures) for precision in ("fp32", "bf16")
    )
    one, other = torch.from_numpy(exact), torch.from_numpy(fast)
    cosines = torch.nn.functional.cosine_similarity(one, other)
    cosines[~(one.any(dim=1) | other.any(dim=1))] = 1.0  # all zeros: nothing to disagree on
    return float(cosines.min())
