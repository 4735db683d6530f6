"""The noise of an opened sum is what the theorem is about: as large as claimed, discrete, new in every round."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray
from scipy import stats

from solblom_client.keys import derive
from solblom_client.masks.noise_share import Masking, on_grid, under_masks, with_noise_share
from solblom_client.training.discrete_gaussian import discrete_gaussian_vector
from solblom_client.training.keystream import KeyStream
from solblom_protocol.errors import RefusedError
from solblom_protocol.sums.pair_masks import OpenedSum
from solblom_protocol.sums.ring import Ring

ROUNDS, SIZE, SHARE, LARGEST = 1000, 2000, 4, 1000
SITES = ("east", "north", "west")
RING = Ring(32)
Noise = Callable[[str, int], NDArray[np.int64]]


def key(site: str, number: int) -> bytes:
    return derive(site.encode() * 8, "noise", str(number))


def honest(site: str, number: int) -> NDArray[np.int64]:
    """Return what a node adds to a sum of zero, by the product's own function."""
    zeros = np.zeros(SIZE, dtype=np.int64)
    stream = KeyStream(key(site, number))
    return with_noise_share(zeros, share=SHARE, largest=LARGEST, stream=stream)


def opened_rounds(noise: Noise) -> Iterator[NDArray[np.int64]]:
    """Give the opened sum of each round; masks cancel exactly (tested elsewhere), so they are left out."""
    for number in range(ROUNDS):
        yield sum(noise(site, number) for site in SITES)  # type: ignore[misc]


def complaints(noise: Noise) -> list[str]:
    """Return what is wrong with the opened noise of 1,000 rounds at the claimed scale."""
    rounds = np.stack(list(opened_rounds(noise)))
    variance = len(SITES) * SHARE**2
    found = []
    spread = np.sqrt(2.0 / rounds.size)
    if abs(rounds.var() / variance - 1.0) > 4 * spread:
        found.append("scale")
    values = np.arange(-8 * SHARE, 8 * SHARE + 1)
    expected = np.exp(-(values**2) / (2.0 * variance))
    expected *= rounds.size / np.exp(-(np.arange(-200, 201) ** 2) / (2.0 * variance)).sum()
    seen = np.array([(rounds == value).sum() for value in values])
    kept = expected > 10
    square = float(((seen - expected)[kept] ** 2 / expected[kept]).sum())
    if stats.chi2.sf(square, kept.sum()) < 1e-6:
        found.append("shape")
    earlier, later = rounds[:-1].ravel().astype(float), rounds[1:].ravel().astype(float)
    if abs(np.corrcoef(earlier, later)[0, 1]) > 5 / np.sqrt(earlier.size):
        found.append("independence")
    return found


def test_a_thousand_rounds_of_opened_noise_fit_the_claimed_scale() -> None:
    assert complaints(honest) == []


def unscaled(site: str, number: int) -> NDArray[np.int64]:
    """A share for four hospitals where three are counted."""
    stream = KeyStream(key(site, number))
    return discrete_gaussian_vector(stream, 5, SIZE)


def rounded_continuous(site: str, number: int) -> NDArray[np.int64]:
    """A real Gaussian rounded to integers: no theorem covers its sum."""
    normals = KeyStream(key(site, number)).normals(SIZE).numpy()
    return np.rint(SHARE * normals.astype(np.float64)).astype(np.int64)


def reused_after_a_dropout(site: str, number: int) -> NDArray[np.int64]:
    """West's noise of a round that was given up is used for the next one again."""
    return honest(site, number - number % 2 if site == "west" else number)


def one_share_short(site: str, number: int) -> NDArray[np.int64]:
    """West adds nothing: its share was dropped."""
    return honest(site, number) * (site != "west")


@pytest.mark.parametrize(
    ("mutant", "complaint"),
    [
        (unscaled, "scale"),
        (rounded_continuous, "scale"),
        (reused_after_a_dropout, "independence"),
        (one_share_short, "scale"),
    ],
)
def test_noise_that_is_not_what_is_claimed_is_noticed(mutant: Noise, complaint: str) -> None:
    """The check above can fail: each of these once passed for noise somewhere."""
    assert complaint in complaints(mutant)


def test_what_leaves_is_masked_and_opens_to_the_values_and_their_noise() -> None:
    keys = {site: X25519PrivateKey.generate() for site in SITES}
    public = {site: k.public_key() for site, k in keys.items()}
    closed, plain = OpenedSum(RING, SIZE, frozenset(SITES)), np.zeros(SIZE, dtype=np.int64)
    for site in SITES:
        masking = Masking(site, keys[site], public, "run-1", "roster", "train", 1, "model")
        values = honest(site, 1)
        data = under_masks(RING, values, masking)
        assert np.abs(np.frombuffer(data, dtype="<i4").astype(float)).mean() > 2.0**29
        closed.add(site, data)
        plain += values
    assert np.array_equal(closed.open(), plain)


def test_another_mask_key_of_ones_own_is_refused() -> None:
    keys = {site: X25519PrivateKey.generate().public_key() for site in SITES}
    masking = Masking("east", X25519PrivateKey.generate(), keys, "r", "x", "train", 1, "m")
    with pytest.raises(RefusedError, match="another mask key"):
        under_masks(RING, np.zeros(3, dtype=np.int64), masking)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_sum_that_is_no_number_does_not_leave(value: float) -> None:
    with pytest.raises(RefusedError) as caught:
        on_grid(np.array([0.0, value]), fractional_bits=4, largest=100)
    assert caught.value.code == "SB-213"


def test_values_are_rounded_to_the_grid_and_cut_off_at_the_range() -> None:
    grid = on_grid(np.array([0.03, -0.04, 5.0, -1e300]), fractional_bits=4, largest=70)
    assert grid.tolist() == [0, -1, 70, -70]


def test_one_patient_moves_a_rounded_sum_by_no_more_than_the_sensitivity() -> None:
    """L2 of the difference: 2^f C + sqrt(d), for any sum (privacy.md rule 7)."""
    rng = np.random.default_rng(5)
    for size in (1, 7, 400):
        for _ in range(200):
            base, patient = rng.normal(0, 3, size), rng.normal(0, 1, size)
            patient *= 0.5 / np.linalg.norm(patient)
            with_, without = (
                on_grid(v, fractional_bits=6, largest=90) for v in (base + patient, base)
            )
            moved = np.linalg.norm((with_ - without).astype(float))
            assert moved <= 2**6 * 0.5 + np.sqrt(size)
