"""Encoded bytes to upright RGB pixels, and the fixed codes for what cannot be taken.

Bytes come from strangers: only five formats are opened, sizes are checked before pixels are decoded,
and whatever fails becomes a `Rejected` with a code, never a crash.
"""

import hashlib
import io
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from sightline.image_properties import Properties, measure_properties
from sightline.view_hashes import SIDE_PIXELS, hash_picture

Pixels = np.ndarray[Any, np.dtype[np.uint8]]  # (height, width, 3)
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")

REASONS = {
    "unreadable": "The source did not hand out the bytes, whole, in the tries that it was given.",
    "busy": "The server put us off for load, in all tries.",
    "gone": "The source no longer has the image.",
    "refused": "The server refuses to hand out the image.",
    "opted_out": "The owner asks not to be used for machine learning (X-Robots-Tag: noai, noimageai).",
    "forbidden_address": "The uri leads to an address that is not public, or is no web address.",
    "bad_member": "The archive's member is unsafe or broken.",
    "empty": "The file has no bytes.",
    "too_large": "The file is larger than limits.image_megabytes.",
    "too_many_pixels": "The header declares more pixels than limits.image_megapixels.",
    "unsupported_format": f"The file is of a format other than {', '.join(FORMATS)}.",
    "not_an_image": "The bytes are not those of an image.",
    "truncated": "The image breaks off.",
    "corrupt": "The image cannot be decoded.",
    "duplicate": "The same bytes are held under another uri.",
    "conflict": "The same bytes are held under another uri and with another label.",
    "licence": "The licence is not one that the dataset file allows.",
    "taken_down": "The image, or all of its author's, were taken down.",
}
# What begins an image, or a file often mistaken for one, that we do not open.
SIGNATURES = {
    b"\x00\x00\x01\x00": "ICO",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"%!PS": "EPS",
    b"%PDF": "PDF",
    b"<svg": "SVG",
    b"\xff\x0a": "JPEG XL",
    b"\x00\x00\x00\x0cJXL ": "JPEG XL",
    b"8BPS": "PSD",
}


class Rejected(Exception):
    """An image that we cannot take: a code of REASONS, and a detail for a person."""

    def __init__(self, reason: str, detail: str) -> None:
        assert reason in REASONS, reason
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Limits:
    """The largest image that is opened."""

    size_bytes: int
    pixels: int


@dataclass(frozen=True)
class Measured(Properties):
    """What one look at an image tells: the columns of the images table that come from its bytes."""

    image_id: str
    format: str
    height: int
    width: int
    n_channels: int
    mode: str
    exif_orientation: int
    phash: str
    view_hashes: bytes


def measure(content: bytes, limits: Limits, rotation: int = 0) -> Measured:
    """Decode an image once, to be sure that it can be, and measure it.

    Raises Rejected where it cannot be taken.
    """
    if not content:
        raise Rejected("empty", "0 bytes")
    if len(content) > limits.size_bytes:
        raise Rejected("too_large", f"{len(content):,} bytes, at most {limits.size_bytes:,}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, about odd metadata; pixels are checked below
        image = _open(content, limits.pixels)
        orientation = _exif_orientation(image)
        grey = _decode_jpeg(image, content, "GRAY")  # reads all that the file holds, colours too
        if grey is None:
            picture = _decode(image, orientation, rotation)
        else:
            picture = _upright(Image.fromarray(grey[..., 0]), orientation, rotation)
        coarse, hashed = _reduce(picture.convert("L"))
        phash, view_hashes = hash_picture(np.asarray(hashed))
        return Measured(
            image_id=hashlib.sha256(content).hexdigest(),
            format=str(image.format),
            height=image.height,
            width=image.width,
            n_channels=len(image.getbands()),
            mode=image.mode,
            exif_orientation=orientation,
            phash=phash,
            view_hashes=view_hashes,
            **vars(measure_properties(coarse, *picture.size)),
        )


def _reduce(grey: Image.Image) -> tuple[Image.Image, Image.Image]:
    """A picture of 64 to 127 pixels a side, where there are as many, and from it the one that is hashed.

    As `resize(..., reducing_gap=2.0)` does it: that costs a fraction of a whole resize and changes 2 bits
    of a hash at most (84 real photos; 0.14 on average). One pass over all pixels serves both.
    """
    across, down = (max(1, length // (2 * SIDE_PIXELS)) for length in grey.size)
    coarse = grey.reduce((across, down))
    box = (0.0, 0.0, grey.width / across, grey.height / down)
    side = (SIDE_PIXELS, SIDE_PIXELS)
    return coarse, coarse.resize(side, Image.Resampling.LANCZOS, box=box)


def decode(content: bytes, rotation: int = 0) -> Image.Image:
    """The upright RGB picture of bytes that `measure` has accepted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = _open(content, 2 * (Image.MAX_IMAGE_PIXELS or 0))  # beyond it Pillow itself refuses
        return _decode(image, _exif_orientation(image), rotation)


def decode_pixels(content: bytes, rotation: int = 0, least_side: int | None = None) -> Pixels:
    """The pixels of `decode`, uint8 (height, width, 3), through libjpeg-turbo where it can.

    `least_side`: the shorter side in pixels that will do; a JPEG is then decoded at 1/2, 1/4 or 1/8.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = _open(content, 2 * (Image.MAX_IMAGE_PIXELS or 0))
        orientation = _exif_orientation(image)
        pixels = _decode_jpeg(image, content, "RGB", least_side)
        if pixels is None:
            return np.array(_decode(image, orientation, rotation))
    if orientation == 1 and not rotation % 360:
        return pixels
    return np.array(_upright(Image.fromarray(pixels), orientation, rotation))


def _decode_jpeg(
    image: Image.Image, content: bytes, colorspace: str, least_side: int | None = None
) -> Pixels | None:
    """The pixels of a plain JPEG; None for all else, and for what Pillow must judge, for libjpeg-turbo
    has met something odd in it.
    """
    if image.format != "JPEG" or image.mode not in ("RGB", "L"):
        return None
    smaller = {"min_height": least_side, "min_width": least_side, "min_factor": 1}
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(
            content, colorspace, strict=True, **smaller if least_side else {}
        )
    except ValueError:
        return None
    return pixels


def thumbnail(content: bytes, side: int = 96, rotation: int = 0) -> bytes | None:
    """A small JPEG of what can be seen of an image, broken ones included; None when nothing can."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # With an end mark behind it, a JPEG that breaks off is seen as far as it goes.
            image = _open(content + b"\xff\xd9", 50_000_000)
            image.thumbnail((side, side))
            picture = _to_rgb(ImageOps.exif_transpose(image)).rotate(rotation, expand=True)
    except Exception:  # a thumbnail is a courtesy; the reject itself has been recorded
        return None
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _open(content: bytes, max_pixels: int) -> Image.Image:
    """Read the header only; Rejected where it is not that of an image that we take."""
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise Rejected("too_many_pixels", str(error)) from error
    except UnidentifiedImageError as error:
        raise _unidentified(content) from error
    except Exception as error:  # Pillow's plugins raise whatever their parsing meets
        raise Rejected("corrupt", _detail(error)) from error
    if image.width * image.height > max_pixels:
        size = f"{image.width} x {image.height}"
        raise Rejected("too_many_pixels", f"{size} pixels, at most {max_pixels:,} in all")
    return image


def _unidentified(content: bytes) -> Rejected:
    start = content[:64].lstrip()
    for signature, name in SIGNATURES.items():
        if content.startswith(signature) or start.startswith(signature):
            return Rejected("unsupported_format", f"{name} is not among {', '.join(FORMATS)}")
    if content[4:8] == b"ftyp":
        return Rejected("unsupported_format", f"HEIC, AVIF or video, not {', '.join(FORMATS)}")
    if start[:1] == b"<":
        return Rejected("not_an_image", "markup (HTML or XML), perhaps an error page")
    known = content.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"BM", b"RIFF"))
    if known:
        return Rejected("corrupt", "begins like an image, but its header cannot be read")
    return Rejected("not_an_image", f"begins with {content[:8]!r}")


def _decode(image: Image.Image, orientation: int, rotation: int) -> Image.Image:
    """Pixels of the first frame: upright, RGB, transparency over white."""
    try:
        image.load()
    except Image.DecompressionBombError as error:
        raise Rejected("too_many_pixels", str(error)) from error
    except Exception as error:  # as in _open
        detail = _detail(error)
        broken_off = "truncated" in detail or "cannot load this image" in detail
        raise Rejected("truncated" if broken_off else "corrupt", detail) from error
    return _upright(_to_rgb(image), orientation, rotation)


def _upright(picture: Image.Image, orientation: int, rotation: int) -> Image.Image:
    if orientation != 1:
        picture = picture.transpose(_TRANSPOSED[orientation])
    return picture.rotate(rotation, expand=True) if rotation % 360 else picture


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel; Pillow's own conversion would clip at 255
        image = image.point(lambda value: value / 256).convert("L")
    if "A" in image.getbands() or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")


_TRANSPOSED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _exif_orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 where it is absent or garbage; a bad tag spoils no good picture."""
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:  # as in _open
        return 1
    return int(value) if value in _TRANSPOSED else 1


def _detail(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
