"""Champions at work on single photos, by the very steps that made their published answers.

A photo is measured and decoded as an ingest does it, prepared by its backbone's own preprocessing, inferred
in the precision that backbone_id names, and judged by the model's PCA, scaler and head, or by the
fine-tuned network itself. What is loaded is kept for the next photo; the pointer to the champion is read
each time, so that another champion serves at once.
"""

import base64
import io
import time
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from sightline import backbones, images, models
from sightline.backbones.inference import Network
from sightline.backbones.worker import prepare_picture
from sightline.catalog import Catalog, open_catalog
from sightline.classifiers import softmax
from sightline.config import BackboneSpec, LimitsSpec, check_known
from sightline.errors import PhotoRefused, WeightsError
from sightline.images import Limits, Measured, Rejected
from sightline.serving.neighbours import Neighbours
from sightline.serving.questions import Answer, Likely, Neighbour, Question

if TYPE_CHECKING:
    import torch

Array = np.ndarray[Any, Any]
KEPT_CHAMPIONS = 2  # loaded at once: networks of some hundred megabytes


class Champions:
    """The champions of all datasets; loads what it is asked for."""

    def __init__(self) -> None:
        self._loaded: OrderedDict[tuple[str, str], Champion] = OrderedDict()

    def answer(self, question: Question, content: bytes) -> Answer:
        """What the dataset's champion says of an encoded photo.

        ConfigError where there is no such dataset, TrainingError where it has no champion, PhotoRefused
        where the bytes are not those of a photo that we take.
        """
        check_known(question.dataset)
        catalog = open_catalog(question.dataset)
        champion = self._champion(catalog, models.require_champion(catalog))
        return champion.answer(question, content)

    def _champion(self, catalog: Catalog, model: dict[str, Any]) -> "Champion":
        key = (catalog.root, model["version"])
        if key not in self._loaded:
            while len(self._loaded) >= KEPT_CHAMPIONS:
                self._loaded.popitem(last=False)
            self._loaded[key] = Champion(catalog, model)
        self._loaded.move_to_end(key)
        return self._loaded[key]


@dataclass(frozen=True)
class Judged:
    """What a model says of a photo, and what it looked at."""

    probabilities: Array  # (classes,)
    views: int
    seen: "torch.Tensor"  # (3, h, w)
    embedding: Array | None = None  # (dim,) of the dataset's backbone, where the model works on it


class Champion:
    """One model, loaded."""

    def __init__(self, catalog: Catalog, model: dict[str, Any]) -> None:
        self.catalog = catalog
        self.model = model
        self.judge = JUDGES[model["kind"]](catalog, model)
        limits = LimitsSpec.model_validate(model["spec"]["limits"])
        self.limits = Limits(
            int(limits.image_megabytes * 2**20), int(limits.image_megapixels * 10**6)
        )

    def answer(self, question: Question, content: bytes) -> Answer:
        """What the model says of an encoded photo."""
        began = time.perf_counter()
        measured = _measure(content, self.limits)
        judged = self.judge.look(content, question.augmented)
        seconds = time.perf_counter() - began
        return Answer(
            dataset=self.catalog.dataset,
            version=self.model["version"],
            kind=self.model["kind"],
            top=_likeliest(self.model["labels"], judged.probabilities, question.top),
            classes=len(self.model["labels"]),
            views=judged.views,
            has_augmentation=self.judge.most_views > 1,
            format=measured.format,
            width=measured.width,
            height=measured.height,
            seconds=round(seconds, 4),
            seen=_picture_of(judged.seen) if question.with_pictures else None,
            neighbours=self._neighbours(question, content, judged),
        )

    def _neighbours(self, question: Question, content: bytes, judged: Judged) -> list[Neighbour]:
        if not question.neighbours:
            return []
        embedding = judged.embedding
        if embedding is None:
            embedding = self._backbone.embed(content)[1]
        return self._known.nearest(embedding, question.neighbours, question.with_pictures)

    @cached_property
    def _backbone(self) -> "Backbone":
        """The dataset's own, beside a fine-tuned network."""
        return Backbone(self.model)

    @cached_property
    def _known(self) -> Neighbours:
        return Neighbours(self.catalog, self.model)


class Backbone:
    """The network that made the features that a model belongs to."""

    def __init__(self, model: dict[str, Any]) -> None:
        self.spec = BackboneSpec.model_validate(model["spec"]["backbone"])
        loaded = backbones.load_backbone(self.spec)
        precision = model["backbone_id"].rpartition("-")[2]
        if loaded.identity(precision) != model["backbone_id"]:
            raise WeightsError(
                f"Model {model['version']} was trained on features of {model['backbone_id']}, but the "
                f"backbone's weights are now those of {loaded.identity(precision)}; put the old ones "
                "back, or train anew."
            )
        self.network = Network(loaded.module, loaded.preprocessing, precision)

    def embed(self, content: bytes) -> "tuple[torch.Tensor, Array]":
        """The prepared picture (3, h, w), and its embedding (dim,)."""
        picture = prepare_picture(self.spec, self.network.preprocessing, content, 0)
        return picture, self.network.embed([picture])[0]


class HeadJudge:
    """PCA, scaler and head on the features of the backbone."""

    most_views = 1

    def __init__(self, catalog: Catalog, model: dict[str, Any]) -> None:
        self.backbone = Backbone(model)
        self.classifier = models.load_classifier(catalog, model)

    def look(self, content: bytes, augmented: bool | None) -> Judged:
        """At the whole photo."""
        picture, embedding = self.backbone.embed(content)
        return Judged(self.classifier.probabilities(embedding[None])[0], 1, picture, embedding)


class TunedJudge:
    """A fine-tuned network, which may look at several views of a photo."""

    def __init__(self, catalog: Catalog, model: dict[str, Any]) -> None:
        from sightline.fine_tuning.augmentation import views
        from sightline.fine_tuning.tuned_models import PRECISION, load_tuned

        tuned = load_tuned(catalog, model["version"])
        module, preprocessing = tuned.build()
        self.network = Network(module, preprocessing, PRECISION)
        self.views = views(tuned.fine_tune.test_time_augmentation)
        self.most_views = len(self.views)

    def look(self, content: bytes, augmented: bool | None) -> Judged:
        """At all views, or at the whole photo alone."""
        shown = self.views[:1] if augmented is False else self.views
        pixels = images.decode_pixels(content)
        pictures = [self.network.preprocessing.prepare(view.of(pixels)) for view in shown]
        shares = softmax(self.network.embed(pictures))
        return Judged(shares.mean(axis=0), len(shown), pictures[0])


JUDGES: dict[str, type[HeadJudge] | type[TunedJudge]] = {
    models.HEAD: HeadJudge,
    models.FINE_TUNED: TunedJudge,
}


def _measure(content: bytes, limits: Limits) -> Measured:
    """What an ingest would have to say of the bytes, as a refusal for a person."""
    try:
        return images.measure(content, limits)
    except Rejected as error:
        told = images.REASONS[error.reason].rstrip(".")
        raise PhotoRefused(
            f"This photo cannot be looked at: {told[0].lower()}{told[1:]} ({error.detail}). Try another one, "
            f"saved as {', '.join(images.FORMATS[:-1])} or {images.FORMATS[-1]}.",
            error.reason,
        ) from error


def _likeliest(labels: list[str], probabilities: Array, count: int) -> list[Likely]:
    order = np.argsort(-probabilities, kind="stable")[:count]
    return [Likely(labels[place], float(np.float32(probabilities[place]))) for place in order]


def _picture_of(prepared: "torch.Tensor") -> str:
    """A prepared picture (3, h, w) as a data URI; a normalised one is stretched to what can be seen."""
    values = prepared.permute(1, 2, 0).numpy()
    if values.dtype != np.uint8:
        low, high = float(values.min()), float(values.max())
        values = ((values - low) * (255 / max(high - low, 1e-9))).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(values)).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
