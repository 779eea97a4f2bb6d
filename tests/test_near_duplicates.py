"""Near-duplicates: the pairs are those of a comparison of all with all, and copies of photos are found."""

import io
from pathlib import Path

import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from sightline.images import Limits, measure
from sightline.near_duplicates import BOUND, KEY_BOUND, Groups, Hashed, pairs_among, pairs_between
from sightline.view_hashes import MIRRORED, SIDE_PIXELS, WINDOWS, hash_picture, unpack_views

LIMITS = Limits(2**26, 10**8)


def random_views(rng: np.random.Generator, count: int) -> "np.ndarray":
    return rng.integers(0, 2**64, (count, len(WINDOWS), 2), dtype=np.uint64)


def flipped(hashes: "np.ndarray", key_bits: list[int], other_bits: list[int]) -> "np.ndarray":
    """Hashes (n, 2) with some bits turned."""
    masks = [sum(1 << bit for bit in bits) for bits in (key_bits, other_bits)]
    return hashes ^ np.array(masks, np.uint64)


def compared_all(images: Hashed, others: Hashed, bound: int) -> set[tuple[int, int]]:
    """Pairs by comparing each view of the one side, mirrored and not, with all of the other."""
    found = set()
    for one, other, swap in ((images, others, False), (others, images, True)):
        for row, views in enumerate(one.views):
            for hashes in np.concatenate([views, views ^ MIRRORED]):
                bits = np.bitwise_count(other.whole ^ hashes)
                close = (bits[:, 0] <= KEY_BOUND) & (bits.sum(axis=1) <= bound)
                found |= {(int(n), row) if swap else (row, int(n)) for n in np.flatnonzero(close)}
    return found


@settings(max_examples=8)
@given(
    seed=st.integers(0, 2**31),
    key_bits=st.lists(st.integers(0, 63), max_size=7, unique=True),
    other_bits=st.lists(st.integers(0, 63), max_size=12, unique=True),
    view=st.integers(0, len(WINDOWS) - 1),
)
def test_the_pairs_are_those_of_a_comparison_of_all_with_all(
    seed: int, key_bits: list[int], other_bits: list[int], view: int
) -> None:
    rng = np.random.default_rng(seed)
    one, other = random_views(rng, 30), random_views(rng, 20)
    other[:10, 0] = flipped(one[:10, view], key_bits, other_bits)
    one[20:25, 0] = flipped(other[10:15, view] ^ MIRRORED, key_bits, other_bits)
    images, others = Hashed(one), Hashed(other)
    expected = compared_all(images, others, BOUND)
    found = {
        pair
        for pairs in pairs_between(images, others)
        for pair in zip(*map(list, pairs[:2]), strict=True)
    }
    assert found == expected
    is_near = len(key_bits) <= KEY_BOUND and len(key_bits) + len(other_bits) <= BOUND
    assert (len(found) >= 15) == is_near


def test_many_equal_hashes_are_one_group_without_all_their_pairs() -> None:
    views = random_views(np.random.default_rng(0), 3_000)
    views[:2_000] = views[0]
    pairs = list(pairs_among(Hashed(views)))
    groups = Groups(len(views))
    for found in pairs:
        groups.join(found.rows.tolist(), found.others.tolist())
    assert {groups.name(row) for row in range(2_000)} == {0}
    assert [groups.name(row) for row in range(2_000, 3_000)] == list(range(2_000, 3_000))
    assert sum(len(found.rows) for found in pairs) < 100_000


def test_groups_grow_together() -> None:
    groups = Groups(6)
    groups.join([4, 2, 3], [5, 4, 1])
    assert [groups.name(member) for member in range(6)] == [0, 1, 2, 1, 2, 2]
    groups.join([groups.add()], [5])
    assert groups.name(6) == 2


def test_the_classic_hash_is_imagehashs() -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (SIDE_PIXELS, SIDE_PIXELS), np.uint8) for _ in range(50)]
    pictures += [np.full((SIDE_PIXELS, SIDE_PIXELS), level, np.uint8) for level in (0, 77, 255)]
    for pixels in pictures:
        assert hash_picture(pixels)[0] == str(imagehash.phash(Image.fromarray(pixels)))


def test_plain_pictures_are_alike() -> None:
    dark, light = (np.full((SIDE_PIXELS, SIDE_PIXELS), level, np.uint8) for level in (3, 250))
    assert hash_picture(dark)[1] == hash_picture(light)[1]


def encoded(image: Image.Image, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def copies(content: bytes) -> dict[str, bytes]:
    """Copies of a photo, as people make them."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    width, height = image.size
    edge, below = round(width * 0.05), round(height * 0.05)
    return {
        "recompressed": encoded(image, 50),
        "resized": encoded(image.resize((width // 2, height // 2))),
        "cropped around": encoded(image.crop((edge, below, width - edge, height - below))),
        "cropped at a corner": encoded(image.crop((edge, 0, width, height - below))),
        "mirrored": encoded(ImageOps.mirror(image)),
    }


def test_copies_of_real_photos_are_found_and_no_two_photos_are_called_copies(
    shared_data: Path,
) -> None:
    photos = [path.read_bytes() for path in sorted((shared_data / "flowers").glob("*/*.jpg"))[::40]]
    originals = hashed_of(photos)
    assert not list(pairs_among(originals))
    made = [copies(photo) for photo in photos]
    for kind in made[0]:
        found = pairs_between(originals, hashed_of([copy[kind] for copy in made]))
        pairs = {
            pair
            for some in found
            for pair in zip(some.rows.tolist(), some.others.tolist(), strict=True)
        }
        assert all(one == other for one, other in pairs), kind
        assert len(pairs) >= 0.95 * len(photos), kind


def hashed_of(photos: list[bytes]) -> Hashed:
    return Hashed(unpack_views(b"".join(measure(photo, LIMITS).view_hashes for photo in photos)))


@pytest.mark.parametrize("count", [0, 1])
def test_none_and_one_have_no_pairs(count: int) -> None:
    images = Hashed(random_views(np.random.default_rng(0), count))
    assert not list(pairs_among(images))
    assert not list(pairs_between(images, Hashed(random_views(np.random.default_rng(1), 0))))
