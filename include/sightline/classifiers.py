"""Portable classifiers: PCA, scaler and head as plain arrays, which predict without a JVM or torch.

A classifier is one safetensors file whose arrays are named `pca.mean`, `scaler.factors`,
`head.coefficients` and so on. Which kind of head it is, and the order of its labels, stand in model.json.
"""

import hashlib
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from safetensors.numpy import load, load_file, save

from sightline import storage
from sightline.shared_files import SharedFile, local_path

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Pca:
    """Principal components: x is projected to (x - mean) @ components.T, of shape (n, k)."""

    mean: Array  # (dim,)
    components: Array  # (k, dim), rows by falling variance
    explained_variance_ratio: Array  # (k,)

    def project(self, embeddings: Array) -> Array:
        """Components, float32 (n, k), of embeddings (n, dim)."""
        return ((embeddings - self.mean) @ self.components.T).astype(np.float32)


@dataclass(frozen=True)
class Scaler:
    """Centres and stretches; multiplies as Spark does, so that a forest's thresholds are met exactly."""

    mean: Array  # (k,)
    factors: Array  # (k,), 1 where a component never varies

    def scale(self, values: Array) -> Array:
        """Scaled values, float64 (n, k)."""
        return np.asarray((values - self.mean) * self.factors)


class PortableHead(Protocol):
    """What every head does: a frozen dataclass of arrays."""

    def probabilities(self, values: Array) -> Array:
        """Probabilities, float64 (n, classes), of scaled values (n, k)."""


@dataclass(frozen=True)
class LogisticRegression:
    """Multinomial logistic regression."""

    coefficients: Array  # (classes, k)
    intercepts: Array  # (classes,)

    def probabilities(self, values: Array) -> Array:
        """Softmax of the linear scores."""
        return softmax(values @ self.coefficients.T + self.intercepts)


@dataclass(frozen=True)
class LinearSvm:
    """A linear support vector machine for each class against all others."""

    coefficients: Array  # (classes, k)
    intercepts: Array  # (classes,)

    def probabilities(self, values: Array) -> Array:
        """Softmax of the margins: it orders the classes as the margins do, and is not calibrated."""
        return softmax(values @ self.coefficients.T + self.intercepts)


@dataclass(frozen=True)
class RandomForest:
    """Trees that vote with the class shares of their leaves; the nodes of all trees are numbered through.

    A leaf has itself as both children, so that rows which have arrived stay.
    """

    roots: Array  # (trees,) int32: a node
    features: Array  # (nodes,) int32: the column that is compared
    thresholds: Array  # (nodes,): up to it goes left
    left: Array  # (nodes,) int32: a node
    right: Array  # (nodes,) int32
    leaves: Array  # (nodes,) int32: a row of votes; 0 where the node is no leaf
    votes: Array  # (leaves, classes)

    def probabilities(self, values: Array) -> Array:
        """Mean of the votes; all rows go down all trees together, a level at a time."""
        at, rows = np.tile(self.roots, (len(values), 1)), np.arange(len(values))[:, None]
        arrived = False
        while not arrived:
            goes_left = values[rows, self.features[at]] <= self.thresholds[at]
            below = np.where(goes_left, self.left[at], self.right[at])
            arrived, at = bool((below == at).all()), below
        total = np.zeros((len(values), self.votes.shape[1]))
        for leaves in self.leaves[at].T:  # a tree at a time: all at once would be trees x classes
            total += self.votes[leaves]
        return np.asarray(total / total.sum(axis=1, keepdims=True))


@dataclass(frozen=True)
class MultilayerPerceptron:
    """Layers of sigmoids below a softmax."""

    layers: Array  # (layers,) int32: widths, from the values' to the classes'
    weights: Array  # flat: of each layer a matrix (outputs, inputs) by columns, then its biases

    def probabilities(self, values: Array) -> Array:
        """Forward through the layers."""
        at = 0
        for number, (width, out) in enumerate(zip(self.layers[:-1], self.layers[1:], strict=True)):
            end = at + width * out
            matrix, biases = self.weights[at:end].reshape(width, out), self.weights[end : end + out]
            values, at = values @ matrix + biases, end + out
            if number < len(self.layers) - 2:
                values = sigmoid(values)
        return softmax(values)


PORTABLE_HEADS: dict[str, type[Any]] = {
    "logistic_regression": LogisticRegression,
    "linear_svm": LinearSvm,
    "random_forest": RandomForest,
    "multilayer_perceptron": MultilayerPerceptron,
}


@dataclass(frozen=True)
class Classifier:
    """Embeddings in, probabilities out, in the order of `labels`."""

    labels: list[str]
    pca: Pca | None  # None where the head works on the embeddings themselves
    scaler: Scaler
    head: PortableHead

    def probabilities(self, embeddings: Array) -> Array:
        """Probabilities, float64 (n, classes), of embeddings (n, dim)."""
        values = embeddings if self.pca is None else self.pca.project(embeddings)
        return self.head.probabilities(self.scaler.scale(values))


def write_pca(url: str, pca: Pca) -> SharedFile:
    """Keep a PCA as a file, from which Spark's workers read it: at 4,096 x 4,096 it is 64 MB."""
    content = save({name: np.ascontiguousarray(one) for name, one in arrays_of(pca).items()})
    storage.write_bytes(url, content)
    return SharedFile(url, hashlib.sha256(content).hexdigest(), len(content))


@lru_cache(maxsize=1)  # a worker process serves many Spark tasks of one job
def read_pca(file: SharedFile) -> Pca:
    """The PCA of a file, on any machine of a job."""
    with local_path(file) as path:
        return Pca(**load_file(path))


def pack(classifier: Classifier) -> bytes:
    """A classifier as the bytes of a safetensors file."""
    parts = {"pca": classifier.pca, "scaler": classifier.scaler, "head": classifier.head}
    return save(
        {
            f"{name}.{array}": np.ascontiguousarray(values)
            for name, part in parts.items()
            if part is not None
            for array, values in arrays_of(part).items()
        }
    )


def unpack(content: bytes, kind: str, labels: list[str]) -> Classifier:
    """The classifier of a safetensors file, whose head is of that kind."""
    parts: dict[str, dict[str, Array]] = {}
    for name, values in load(content).items():
        part, array = name.split(".")
        parts.setdefault(part, {})[array] = values
    pca = Pca(**parts["pca"]) if "pca" in parts else None
    return Classifier(labels, pca, Scaler(**parts["scaler"]), PORTABLE_HEADS[kind](**parts["head"]))


def arrays_of(part: Any) -> dict[str, Array]:
    """The arrays of a dataclass of arrays, by name."""
    return {field.name: getattr(part, field.name) for field in fields(part)}


def softmax(scores: Array) -> Array:
    """Probabilities (n, classes) of scores; finite however large they are."""
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def sigmoid(scores: Array) -> Array:
    """1 / (1 + exp(-x)), without an overflow where x is far below 0."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * scores)))
