"""A slide's stain comes to the reference from its own pixels; the reference stays as it is."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from solblom_models.slides.slide_error import SlideError
from solblom_models.slides.stain_normalisation import (
    LEAST_PIXELS,
    REFERENCE_SPREAD,
    REFERENCE_STAINS,
    amounts_of,
    jittered,
    restainer,
    spread_of,
    stains_of_tissue,
)

Pixels = NDArray[np.uint8]


def tissue(*, haematoxylin: float = 1.0, eosin: float = 1.0, count: int = 4000) -> Pixels:
    """Return made-up pixels of nuclei and stroma whose stains lie in the reference's directions."""
    rng = np.random.default_rng(3)
    nucleus = rng.random(count) < 0.3
    amounts = np.stack(
        [
            np.where(nucleus, rng.uniform(0.6, 1.6, count), rng.uniform(0.02, 0.2, count))
            * haematoxylin,
            np.where(nucleus, rng.uniform(0.02, 0.2, count), rng.uniform(0.5, 1.4, count)) * eosin,
        ]
    ).T
    density = amounts @ REFERENCE_STAINS.directions
    return np.clip(np.round(256 * 10**-density - 1), 0, 255).astype(np.uint8)


def apart(one: Pixels, other: Pixels) -> float:
    return float(np.abs(one.astype(float) - other.astype(float)).mean())


def test_macenko_finds_the_directions_that_pixels_were_made_of() -> None:
    found = stains_of_tissue(tissue())
    cosines = (found.directions * REFERENCE_STAINS.directions).sum(axis=1)
    assert (cosines > 0.99).all()


@pytest.mark.parametrize(
    ("method", "haematoxylin", "eosin"),
    [
        ("macenko", 0.7, 1.25),
        ("macenko", 1.35, 0.75),
        ("macenko", 0.8, 0.7),
        ("reinhard", 0.8, 0.7),
    ],
)
def test_differently_stained_slides_come_closer_to_each_other(
    method: Any, haematoxylin: float, eosin: float
) -> None:
    plain, other = tissue(), tissue(haematoxylin=haematoxylin, eosin=eosin)
    one, two = restainer(method, plain)(plain), restainer(method, other)(other)
    assert apart(one, two) < 0.3 * apart(plain, other)


def test_as_is_changes_no_pixel() -> None:
    pixels = tissue()
    assert restainer("as-is", pixels)(pixels) is pixels


def test_reinhard_brings_mean_and_spread_to_the_reference() -> None:
    pixels = tissue(haematoxylin=0.8)
    found = spread_of(restainer("reinhard", pixels)(pixels[None])[0])
    assert np.allclose(found.mean, REFERENCE_SPREAD.mean, atol=0.03)


def test_glass_stays_glass() -> None:
    pixels, glass = tissue(haematoxylin=0.7), np.full((4, 4, 3), 240, dtype=np.uint8)
    assert apart(restainer("reinhard", pixels)(glass), glass) == 0
    assert apart(restainer("macenko", pixels)(glass), glass) < 8


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
def test_too_little_tissue_is_refused(method: Any) -> None:
    with pytest.raises(SlideError, match="too little stained tissue"):
        restainer(method, tissue(count=LEAST_PIXELS - 1))


def test_stains_that_cannot_be_told_apart_are_refused_rather_than_blown_up() -> None:
    with pytest.raises(SlideError, match="cannot be told apart"):
        restainer("macenko", tissue(haematoxylin=0.15, eosin=0.5))


def test_amounts_grow_with_the_stain() -> None:
    weak, strong = amounts_of(tissue(haematoxylin=0.7)), amounts_of(tissue(haematoxylin=1.35))
    assert strong[0] > 1.3 * weak[0]
    assert amounts_of(np.zeros((0, 3), dtype=np.uint8)) == (0.0, 0.0)


def test_views_differ_in_stain_and_follow_from_the_generator() -> None:
    tiles = tissue().reshape(1, 50, 80, 3)
    one, again = (jittered(tiles, 0.2, generator=np.random.default_rng(5)) for _ in range(2))
    assert (one == again).all()
    assert apart(one, tiles) > 1
    assert apart(jittered(tiles, 0.0, generator=np.random.default_rng(5)), tiles) < 1.5
