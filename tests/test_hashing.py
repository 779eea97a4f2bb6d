"""Places of texts: images of the splits that there are already must never move."""

from sightline.hashing import place_of


def test_a_place_is_the_same_for_ever() -> None:
    assert place_of("abc") == 0xBA7816BF8F01CFEA / 2**64  # as SHA-256's standard has it


def test_places_are_even() -> None:
    places = [place_of(str(number)) for number in range(2000)]
    assert 0 <= min(places) < 0.01
    assert 0.99 < max(places) < 1
    assert abs(sum(places) / 2000 - 0.5) < 0.03
