"""Preprocessing: the fast way gives what Pillow and the weights' own preset give, whatever the picture."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sightline import images
from sightline.backbones import architectures
from sightline.backbones.preprocessing import Preprocessing, plain_geometry
from sightline.backbones.worker import prepare_picture
from sightline.config import BackboneSpec

RNG = np.random.default_rng(0)


def preprocessing_of(name: str, **more: Any) -> tuple[BackboneSpec, Preprocessing]:
    spec = BackboneSpec(name=name, weights="random", **more)
    transform = architectures.make_transform(spec)
    return spec, Preprocessing(transform, plain_geometry(transform))


def encoded(picture: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(width: int, height: int) -> Image.Image:
    coarse = RNG.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def turned(orientation: int) -> dict[str, Any]:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return {"exif": exif}


@pytest.mark.parametrize(
    "name", ["resnet18", "inception_v3", "efficientnet_b6", "vit_b_32", "timm/resnet18.a1_in1k"]
)
@pytest.mark.parametrize("size", [(640, 427), (301, 500), (64, 64), (2000, 333)])
def test_a_fast_picture_is_within_two_levels_of_the_weights_own_preset(
    name: str, size: tuple[int, int]
) -> None:
    spec, preprocessing = preprocessing_of(name)
    content = encoded(photo(*size), quality=92)
    picture = prepare_picture(spec, preprocessing, content, 0)
    exact = preprocessing.transform(images.decode(content))
    assert preprocessing.geometry is not None
    assert picture.dtype == torch.uint8
    fast = preprocessing.normalise(picture[None])[0]
    level = 1 / (255 * torch.tensor(preprocessing.geometry.std))[:, None, None]
    levels = (fast - exact).abs() / level
    assert levels.max() < 2.01
    assert (levels > 1.01).float().mean() < 1e-4
    assert fast.shape == exact.shape


def test_a_preset_of_another_form_is_used_as_it_is() -> None:
    spec = BackboneSpec(name="resnet18", weights="random")
    flipping = Preprocessing(lambda picture: torch.ones(3, 4, 4) * picture.width, None)
    picture = prepare_picture(spec, flipping, encoded(photo(50, 40)), 0)
    assert torch.equal(flipping.normalise(picture[None])[0], torch.full((3, 4, 4), 50.0))
    assert plain_geometry(lambda picture: picture) is None


def odd_pictures() -> dict[str, bytes]:
    picture = photo(90, 61)
    grey = np.asarray(picture.convert("L"), dtype=np.uint16) * 257
    layered = picture.convert("RGBA")
    layered.putalpha(Image.linear_gradient("L").resize(picture.size))
    return {
        "jpeg": encoded(picture),
        "progressive": encoded(picture, progressive=True, subsampling=0),
        "grey jpeg": encoded(picture.convert("L")),
        "cmyk": encoded(picture.convert("CMYK")),
        "palette": encoded(picture.quantize(64), "PNG"),
        "alpha": encoded(layered, "PNG"),
        "sixteen": encoded(Image.fromarray(grey), "PNG"),
        "webp": encoded(picture, "WEBP"),
        **{f"turned {number}": encoded(picture, **turned(number)) for number in range(1, 9)},
        "bytes behind the end": encoded(picture) + b"\x00" * 100,
    }


@pytest.mark.parametrize("rotation", [0, 90, -90, 180, 30])
def test_pixels_are_those_of_pillow_whatever_the_form(rotation: int) -> None:
    for name, content in odd_pictures().items():
        ours = images.decode_pixels(content, rotation)
        theirs = np.asarray(images.decode(content, rotation))
        assert ours.shape == theirs.shape, name
        assert np.array_equal(ours, theirs), name


def test_real_photos_decode_to_the_very_pixels_of_pillow(shared_data: Path) -> None:
    for path in sorted((shared_data / "flowers").glob("*/*.jpg"))[::80]:
        content = path.read_bytes()
        assert np.array_equal(images.decode_pixels(content), np.asarray(images.decode(content)))


def test_what_pillow_takes_of_the_odd_files_comes_out_alike(shared_data: Path) -> None:
    taken = 0
    for path in sorted((shared_data / "nasty").iterdir()):
        content = path.read_bytes()
        try:
            images.measure(content, images.Limits(2**26, 10**8))
        except images.Rejected:
            continue
        taken += 1
        assert np.array_equal(images.decode_pixels(content), np.asarray(images.decode(content)))
    assert taken > 30


def test_scaled_decoding_is_near_and_never_too_small() -> None:
    full, preprocessing = preprocessing_of("resnet18")
    scaled, _ = preprocessing_of("resnet18", decode="scaled")
    content = encoded(photo(2048, 1536), quality=92)
    small = images.decode_pixels(content, least_side=256)
    assert small.shape == (384, 512, 3)  # a quarter; an eighth would be too small
    pictures = [prepare_picture(spec, preprocessing, content, 0) for spec in (full, scaled)]
    difference = (pictures[0].float() - pictures[1].float()).abs()
    assert 0 < difference.mean() < 3
    lying = encoded(photo(2048, 1536), **turned(6))
    assert images.decode_pixels(lying, least_side=256).shape == (512, 384, 3)
    tiny = encoded(photo(100, 80))
    assert images.decode_pixels(tiny, least_side=256).shape == (80, 100, 3)
