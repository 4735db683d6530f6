"""Noise and sampling come straight from ChaCha20, one key per purpose and piece of work; splits from the id alone."""

from fractions import Fraction
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from lab import NOW, LabHospital, study_document
from solblom_client.approvals.approval import approval_folder, approve
from solblom_client.cohorts.cohort import join_cohort
from solblom_client.connectors.sources import open_source
from solblom_client.keys import (
    commitment,
    create_node_keys,
    derive,
    is_test_patient,
    keyed_digest,
    read_node_keys,
)
from solblom_client.node import create_node
from solblom_client.training.keystream import KeyStream
from solblom_models.tabular.task import TabularClassification
from solblom_protocol.errors import ConfigurationError

KEY = bytes(range(32))
ROOT = bytes(range(1, 33))
WORK = "sha256:" + "a" * 64
PURPOSES: tuple[Literal["sampling", "noise", "cohort", "consent"], ...] = (
    "sampling",
    "noise",
    "cohort",
    "consent",
)


class FixedCoins(KeyStream):
    """A stream whose integers a test chooses."""

    def __init__(self, *coins: int) -> None:
        super().__init__(KEY)
        self._coins = coins

    def integers(self, count: int) -> Any:
        return np.array(self._coins[:count], dtype=np.uint64)


class FixedBytes:
    """A cipher whose output is one byte, again and again."""

    def __init__(self, byte: int) -> None:
        self._byte = byte

    def update(self, data: bytes) -> bytes:
        return bytes([self._byte]) * len(data)


def normals(count: int, key: bytes = KEY) -> NDArray[np.float64]:
    return np.asarray(KeyStream(key).normals(count).numpy(), dtype=np.float64)


# --- The stream


@pytest.mark.parametrize(
    ("key", "skipped", "expected"),
    [
        (
            bytes(32),
            0,
            "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
            "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586",
        ),
        (
            bytes(31) + b"\x01",
            8,
            "3aeb5224ecf849929b9d828db1ced4dd832025e8018b8160b82284f3c949aa5a"
            "8eca00bbb4a73bdad192b5c42f73f2fd4e273644c8b36125a64addeb006c13a0",
        ),
    ],
    ids=["vector-1", "vector-3"],
)
def test_the_stream_is_the_chacha20_of_rfc_8439_appendix_a1(
    key: bytes, skipped: int, expected: str
) -> None:
    stream = KeyStream(key)
    stream.integers(skipped)
    assert stream.integers(8).astype("<u8").tobytes().hex() == expected


def test_the_stream_does_not_depend_on_how_it_is_cut() -> None:
    whole, cut = KeyStream(KEY), KeyStream(KEY)
    pieces = [cut.integers(count) for count in (1, 2, 7, 90)]
    assert np.array_equal(whole.integers(100), np.concatenate(pieces))


def test_integers_are_read_little_endian() -> None:
    raw = Cipher(ChaCha20(KEY, bytes(16)), mode=None).encryptor().update(bytes(24))
    expected = [int.from_bytes(raw[i : i + 8], "little") for i in (0, 8, 16)]
    assert KeyStream(KEY).integers(3).tolist() == expected


# --- Normal numbers


def test_normals_pass_kolmogorov_smirnov_against_the_normal_distribution() -> None:
    sample = normals(200_000)
    assert stats.kstest(sample, stats.norm.cdf).pvalue > 0.01


def test_normals_have_mean_zero_and_variance_one() -> None:
    sample = normals(200_000)
    assert abs(sample.mean()) < 5 / np.sqrt(len(sample))
    assert abs(sample.var() - 1) < 5 * np.sqrt(2 / len(sample))


def test_the_tails_of_the_normals_are_not_cut_early() -> None:
    assert np.abs(normals(200_000)).max() > 4


def test_the_two_halves_of_box_and_muller_are_not_correlated() -> None:
    first, second = np.split(normals(200_000), 2)
    for a, b in ((first, second), (first**2, second**2), (np.abs(first), second)):
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(len(a))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7])
def test_as_many_normals_come_as_were_asked(count: int) -> None:
    assert normals(count).shape == (count,)


@pytest.mark.parametrize("byte", [0x00, 0x01, 0x7F, 0x80, 0xFF])
def test_no_output_of_the_cipher_gives_a_normal_that_is_not_finite_or_above_its_bound(
    byte: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = KeyStream(KEY)
    monkeypatch.setattr(stream, "_encryptor", FixedBytes(byte))
    worst = np.asarray(stream.normals(2).numpy(), dtype=np.float64)
    assert np.isfinite(worst).all()
    assert np.abs(worst).max() <= 8.58


# --- Poisson sampling


@pytest.mark.parametrize("rate", ["0.001000", "0.100000", "0.500000", "0.900000"])
def test_the_share_of_sampled_patients_is_the_public_rate_within_five_sigma(rate: str) -> None:
    population, probability = 1_000_000, float(rate)
    drawn = len(KeyStream(KEY).poisson_sample(population, rate))
    sigma = np.sqrt(population * probability * (1 - probability))
    assert abs(drawn - population * probability) < 5 * sigma


@settings(max_examples=200, derandomize=True, deadline=None)
@given(millionths=st.integers(1, 999_999))
def test_the_true_rate_is_never_above_the_public_rate(millionths: int) -> None:
    rate = f"0.{millionths:06d}"
    exact = Fraction(millionths, 1_000_000) * 2**64
    first_outside = int(exact)  # coins below it are drawn: their share is first_outside / 2^64
    chosen = FixedCoins(first_outside - 1, first_outside).poisson_sample(2, rate)
    assert list(chosen) == [0]


@pytest.mark.parametrize("rate", ["1", "1.000000"])
def test_rate_one_takes_every_patient(rate: str) -> None:
    assert list(KeyStream(KEY).poisson_sample(50, rate)) == list(range(50))


def test_rate_one_uses_up_as_many_coins_as_any_other_rate() -> None:
    one, half = KeyStream(KEY), KeyStream(KEY)
    one.poisson_sample(50, "1")
    half.poisson_sample(50, "0.5")
    assert one.integers(1) == half.integers(1)


def test_each_patient_is_drawn_by_a_coin_of_its_own() -> None:
    draws = KeyStream(KEY)
    seen = np.zeros((4000, 2))
    for step in range(4000):
        seen[step, list(draws.poisson_sample(2, "0.5"))] = 1
    assert abs(np.corrcoef(seen.T)[0, 1]) < 5 / np.sqrt(4000)


# --- Keys


@pytest.mark.parametrize(("one", "other"), list(combinations(PURPOSES, 2)))
def test_two_purposes_of_one_work_have_independent_streams(one: Any, other: Any) -> None:
    a, b = (normals(10_000, derive(ROOT, purpose, WORK)) for purpose in (one, other))
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(10_000)


def test_every_purpose_work_and_root_has_a_key_of_its_own() -> None:
    works = [WORK, "sha256:" + "b" * 64, ""]
    keys = [
        derive(root, purpose, work)
        for root in (ROOT, KEY)
        for purpose in PURPOSES
        for work in works
    ]
    assert len(set(keys)) == len(keys)


def test_a_commitment_binds_the_key_and_the_work() -> None:
    first = commitment(KEY, WORK)
    assert commitment(ROOT, WORK) != first
    assert commitment(KEY, WORK + "0") != first


def test_a_digest_of_a_cohort_cannot_be_guessed_without_its_key() -> None:
    assert keyed_digest(KEY, b"cohort") != keyed_digest(ROOT, b"cohort")


# --- Splits


def test_a_patient_stays_on_its_side_of_the_split_whoever_else_is_in_the_table(
    hospital: LabHospital,
) -> None:
    keys, study = read_node_keys(hospital.config.state), study_document()
    task = TabularClassification()

    def training() -> set[str]:
        units = task.read_units(
            open_source(hospital.config, hospital.config.dataset[0], study.contract), study
        )
        return set(join_cohort(hospital.config, keys, study, units, now=NOW).training.ids)

    everybody = training()
    for kept in (hospital.rows[::2], hospital.rows[1::2], hospital.rows[40:]):
        hospital.write_rows(kept)
        assert training() == everybody & {row["patient_id"] for row in kept}


def test_the_share_of_test_patients_is_the_public_fraction_within_five_sigma() -> None:
    tests = sum(is_test_patient(KEY, f"patient-{n}", 0.3) for n in range(20_000))
    assert abs(tests - 6000) < 5 * np.sqrt(20_000 * 0.3 * 0.7)


def test_another_split_key_makes_another_split() -> None:
    sides = [[is_test_patient(key, f"patient-{n}", 0.5) for n in range(200)] for key in (KEY, ROOT)]
    assert sides[0] != sides[1]


def test_a_larger_test_fraction_keeps_every_earlier_test_patient() -> None:
    patients = [f"patient-{n}" for n in range(2000)]
    small = {p for p in patients if is_test_patient(KEY, p, 0.2)}
    assert small < {p for p in patients if is_test_patient(KEY, p, 0.3)}


# --- Secrets


def test_a_noise_root_is_given_in_a_simulation_only(hospital: LabHospital) -> None:
    keys = read_node_keys(hospital.config.state)
    envelope = hospital.sign(study_document())
    with pytest.raises(ConfigurationError) as error:
        approve(hospital.config, keys, envelope, now=NOW, root=ROOT)
    assert error.value.code == "SB-103"
    assert not approval_folder(hospital.config, study_document().digest).exists()


def test_seeded_keys_are_refused_outside_a_simulation(hospital: LabHospital) -> None:
    elsewhere = hospital.config.node.model_copy(update={"state": "state-2"})
    config = hospital.config.model_copy(update={"node": elsewhere})
    with pytest.raises(ConfigurationError):
        create_node(config, entropy=lambda _: KEY)


def test_two_approvals_of_two_studies_have_two_noise_roots(hospital: LabHospital) -> None:
    studies = [study_document(), study_document(study={"title": "Another"})]
    for study in studies:
        hospital.approve(study)
    folders = [approval_folder(hospital.config, study.digest) for study in studies]
    assert len({(folder / "noise.root").read_bytes() for folder in folders}) == 2


def test_keys_are_never_overwritten(hospital: LabHospital) -> None:
    with pytest.raises(ConfigurationError) as error:
        create_node_keys(hospital.config.state)
    assert error.value.code == "SB-113"


@pytest.mark.parametrize("name", ["signing.key", "sealing.key", "split.key"])
def test_key_files_are_readable_by_the_node_alone(hospital: LabHospital, name: str) -> None:
    assert (hospital.config.state / "keys" / name).stat().st_mode & 0o077 == 0
