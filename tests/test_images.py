"""Images: whatever the bytes are, they become upright RGB pixels or a reject with a fixed code."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from sightline.images import (
    FORMATS,
    REASONS,
    Limits,
    Rejected,
    decode,
    measure,
    thumbnail,
)
from sightline.source_config import FetchSpec

NASTY = Path(__file__).parents[2] / "shared" / "data" / "nasty"
LIMITS = Limits(size_bytes=64 * 2**20, pixels=89_478_485)
ORIENTATION = 0x0112

# What becomes of the odd and broken files of NASTY that cannot be taken; all others can.
EXPECTED_REASONS = {
    "pillow_apng_syntax_num_frames_zero.png": "truncated",
    "pillow_bmp_b_badpalettesize.bmp": "corrupt",
    "pillow_bmp_b_badwidth.bmp": "too_many_pixels",
    "pillow_bmp_b_reallybig.bmp": "too_many_pixels",
    "pillow_bmp_b_shortfile.bmp": "truncated",
    "pillow_bmp_q_rgb24jpeg.bmp": "corrupt",
    "pillow_broken.png": "corrupt",
    "pillow_decompression_bomb.gif": "too_many_pixels",
    "pillow_decompression_bomb.ico": "unsupported_format",
    "pillow_hopper.ico": "unsupported_format",
    "pillow_truncated_image.png": "truncated",
    "pillow_truncated_jpeg.jpg": "truncated",
    "pillow_unknown_compression_method.png": "corrupt",
    "pillow_zero_width.gif": "corrupt",
}


def encoded(image: Image.Image, image_format: str = "PNG", **options: object) -> bytes:
    """An image as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def uneven(width: int = 12, height: int = 8) -> Image.Image:
    """A picture that no turn or mirror leaves as it is: every pixel differs."""
    red, green = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    pixels = np.stack([red, green, (red + 2 * green) / 3], axis=2)
    return Image.fromarray(pixels.astype(np.uint8))


def reason_of(content: bytes, limits: Limits = LIMITS) -> str:
    """The code with which bytes are rejected."""
    with pytest.raises(Rejected) as caught:
        measure(content, limits)
    assert caught.value.detail
    return caught.value.reason


def nasty_files() -> list[Path]:
    """The odd and broken files beside the checkout, where there are any."""
    return sorted(path for path in NASTY.glob("*_*.*"))


@pytest.mark.skipif(not NASTY.is_dir(), reason=f"there are no odd images at {NASTY}")
def test_the_odd_images_are_all_there() -> None:
    assert len(nasty_files()) == 59
    assert {path.name for path in nasty_files()} > EXPECTED_REASONS.keys()


@pytest.mark.parametrize("path", nasty_files(), ids=lambda path: path.name)
def test_an_odd_image_is_taken_or_rejected_with_the_fitting_reason(path: Path) -> None:
    content = path.read_bytes()
    if path.name in EXPECTED_REASONS:
        assert reason_of(content) == EXPECTED_REASONS[path.name]
        return
    measured = measure(content, LIMITS)
    assert measured.format in (*FORMATS, "MPO")  # a JPEG with more pictures behind the first
    turned = measured.exif_orientation >= 5
    size = (measured.height, measured.width) if turned else (measured.width, measured.height)
    picture = decode(content)
    assert (picture.mode, picture.size) == ("RGB", size)


def test_an_image_is_measured() -> None:
    content = encoded(uneven(width=12, height=8).convert("RGBA"))
    measured = measure(content, LIMITS)
    assert measured.image_id == hashlib.sha256(content).hexdigest()
    assert (measured.format, measured.mode, measured.n_channels) == ("PNG", "RGBA", 4)
    assert (measured.width, measured.height, measured.exif_orientation) == (12, 8, 1)
    assert len(measured.phash) == 16
    assert int(measured.phash, 16) >= 0


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP"])
def test_all_eight_orientations_come_out_upright_and_alike(image_format: str) -> None:
    upright = uneven()
    # How a camera stores the picture that EXIF's orientation turns upright again.
    stored = {1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
              4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
              6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
              8: Image.Transpose.ROTATE_270}  # fmt: skip
    hashes = set()
    for orientation, transposition in stored.items():
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        image = upright.transpose(transposition) if transposition is not None else upright
        lossless = {} if image_format == "PNG" else {"quality": 100}
        content = encoded(image, image_format, exif=exif, **lossless)
        measured = measure(content, LIMITS)
        hashes.add(measured.phash)
        assert measured.exif_orientation == orientation
        assert (measured.width, measured.height) == image.size
        difference = np.asarray(decode(content), int) - np.asarray(upright, int)
        assert decode(content).size == upright.size
        assert np.abs(difference).mean() < {"PNG": 1e-9}.get(image_format, 12)
    assert len(hashes) == 1 or image_format != "PNG"


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_a_senseless_orientation_counts_as_none(value: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = value
    content = encoded(uneven(), exif=exif)
    assert measure(content, LIMITS).exif_orientation == 1
    assert np.array_equal(decode(content), uneven())


@pytest.mark.parametrize(("rotation", "turns"), [(0, 0), (90, 1), (180, 2), (270, 3), (360, 0)])
def test_a_declared_rotation_turns_counter_clockwise(rotation: int, turns: int) -> None:
    content = encoded(uneven())
    assert np.array_equal(decode(content, rotation), np.rot90(uneven(), turns))


def test_sixteen_bits_are_not_clipped_to_white() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(1, 256).repeat(4, axis=0)
    content = encoded(Image.fromarray(ramp))
    assert measure(content, LIMITS).mode == "I;16"
    pixels = np.asarray(decode(content), float)
    assert np.abs(pixels - ramp[:, :, np.newaxis] / 257).max() <= 1


def test_transparency_lies_over_white() -> None:
    half = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    half.putpixel((1, 0), (0, 0, 0, 0))
    grey = Image.new("LA", (2, 1), (0, 255))
    grey.putpixel((1, 0), (0, 0))
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([0, 0, 255, 9, 9, 9])
    palette.putpixel((1, 0), 1)
    white = (255, 255, 255)
    assert colours(encoded(half)) == [(255, 0, 0), white]
    assert colours(encoded(grey)) == [(0, 0, 0), white]
    assert colours(encoded(palette, transparency=1)) == [(0, 0, 255), white]
    assert colours(encoded(palette, "GIF", transparency=1)) == [(0, 0, 255), white]
    assert colours(encoded(Image.new("L", (1, 1), 7), transparency=7)) == [white]


def test_colours_survive_every_mode() -> None:
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    for content in (
        encoded(red.convert("CMYK"), "JPEG", quality=100),
        encoded(red.convert("P", palette=Image.Palette.ADAPTIVE)),
        encoded(red, "GIF"),
        encoded(red, "BMP"),
        encoded(red, "WEBP", lossless=True),
    ):
        assert measure(content, LIMITS).width == 8
        assert np.abs(np.subtract(colours(content)[0], (255, 0, 0))).max() <= 3
    assert colours(encoded(Image.new("1", (1, 1), 1))) == [(255, 255, 255)]


def test_only_the_first_frame_is_seen() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert set(colours(content)) == {(255, 0, 0)}


def test_bytes_that_are_too_few_or_too_many_are_rejected() -> None:
    content = encoded(uneven())
    assert reason_of(b"") == "empty"
    assert reason_of(content, Limits(len(content) - 1, 1000)) == "too_large"
    assert measure(content, Limits(len(content), 96)).width == 12


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    bomb = encoded(Image.new("1", (3000, 3000)))
    broken_behind_its_header = bomb[:60]  # to decode it would fail as truncated
    assert reason_of(broken_behind_its_header, Limits(2**20, 9_000_000)) == "truncated"
    assert reason_of(broken_behind_its_header, Limits(2**20, 8_999_999)) == "too_many_pixels"


def test_what_a_raised_limit_accepts_is_decoded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 80)  # Pillow's own, in place of 89 megapixels
    content = encoded(uneven(width=12, height=8))
    assert measure(content, Limits(2**20, 200)).width == 12
    assert decode(content).size == (12, 8)
    assert reason_of(encoded(uneven(width=20, height=9)), Limits(2**20, 200)) == "too_many_pixels"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<!doctype html><title>404</title>", "not_an_image"),
        (b"  <svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported_format"),
        (b"just words", "not_an_image"),
        (b"%PDF-1.7", "unsupported_format"),
        (b"\x00\x00\x00\x1cftypheic", "unsupported_format"),
        (b"\xff\xd8\xff\xe0", "corrupt"),
        (b"\x00" * 100, "not_an_image"),
    ],
)
def test_bytes_that_are_no_image_of_ours_are_told_apart(content: bytes, reason: str) -> None:
    assert reason_of(content) == reason


def test_a_page_in_place_of_an_image_is_called_a_page() -> None:
    with pytest.raises(Rejected) as caught:
        measure(b"\n<!DOCTYPE html><title>429</title>", LIMITS)
    assert caught.value.detail == "markup (HTML or XML), perhaps an error page"


def test_a_format_that_is_not_ours_is_not_opened() -> None:
    for image_format in ("TIFF", "ICO"):
        assert reason_of(encoded(uneven(16, 16), image_format)) == "unsupported_format"


def test_a_thumbnail_is_small_upright_and_never_fails() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    picture = thumbnail(encoded(uneven(600, 300), exif=exif), side=96)
    assert picture is not None
    assert Image.open(io.BytesIO(picture)).size == (48, 96)
    assert thumbnail(b"just words") is None


def test_every_reason_is_explained_and_a_new_one_is_not_made_up() -> None:
    assert set(FetchSpec().retry_rejects) < REASONS.keys()
    assert all(text.endswith(".") for text in REASONS.values())
    with pytest.raises(AssertionError):
        Rejected("odd", "there is no such code")


VALID = [encoded(uneven(24, 16), "JPEG"), encoded(uneven(24, 16)),
         encoded(uneven(24, 16).convert("P")), encoded(uneven(24, 16), "JPEG", progressive=True),
         encoded(uneven(24, 16), "GIF"), encoded(uneven(24, 16), "WEBP"),
         encoded(uneven(24, 16), "BMP")]  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    content=st.sampled_from(VALID),
    kept=st.floats(0, 1),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=4),
)
def test_damage_leads_to_pixels_or_to_a_reject_and_to_nothing_else(
    content: bytes, kept: float, flips: list[tuple[float, int]]
) -> None:
    damaged = bytearray(content[: max(1, round(kept * len(content)))])
    for place, mask in flips:
        damaged[int(place * len(damaged))] ^= mask
    try:
        measure(bytes(damaged), Limits(2**20, 100_000))
    except Rejected as rejected:
        assert rejected.reason in REASONS
    else:
        assert decode(bytes(damaged)).mode == "RGB"


def colours(content: bytes) -> list[tuple[int, ...]]:
    """The pixels of a picture, row by row."""
    pixels = np.asarray(decode(content)).reshape(-1, 3)
    return [tuple(int(value) for value in pixel) for pixel in pixels]
