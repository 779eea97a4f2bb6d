"""The files that a model is exported to: how each is written, and read back as another program would."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from sightline.images import Pixels

Array = np.ndarray[Any, Any]
Answer = Callable[[Pixels], Array]  # pixels (height, width, 3) to probabilities (classes,)

OPSET = 20
LARGEST_SIDE = 65_535  # pixels; torch wants a bound
EXAMPLE = (96, 128, 3)


@dataclass(frozen=True)
class Format:
    """A kind of file."""

    suffix: str
    runtime: str  # what runs it, in words
    write: Callable[[ExportedProgram, Path], None]
    open: Callable[[Path], Answer]


def trace(module: nn.Module) -> ExportedProgram:
    """The module as a program for pictures of any size."""
    sides = {0: Dim("height", min=2, max=LARGEST_SIDE), 1: Dim("width", min=2, max=LARGEST_SIDE)}
    example = torch.zeros(EXAMPLE, dtype=torch.uint8)
    with torch.no_grad():
        return torch.export.export(module, (example,), dynamic_shapes=(sides,))


def _write_torch(program: ExportedProgram, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weights that share no memory
        torch.export.save(program, path)


def _open_torch(path: Path) -> Answer:
    module = torch.export.load(path).module()

    def answer(pixels: Pixels) -> Array:
        with torch.inference_mode():
            return np.asarray(module(torch.from_numpy(pixels)))

    return answer


def _write_onnx(program: ExportedProgram, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about its own parts
        torch.onnx.export(
            program,
            (),
            path,
            input_names=["pixels"],
            output_names=["probabilities"],
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )


def _open_onnx(path: Path) -> Answer:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def answer(pixels: Pixels) -> Array:
        (found,) = session.run(None, {"pixels": pixels})
        return np.asarray(found)

    return answer


FORMATS: dict[str, Format] = {
    "onnx": Format(".onnx", f"ONNX, opset {OPSET}: onnxruntime", _write_onnx, _open_onnx),
    "torch": Format(".pt2", "torch.export.load(path).module()", _write_torch, _open_torch),
}
