"""Genes to features: within one sample alone, by public constants, and no message carries a value."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm, rankdata

from expression_lab import GENES, contract, write_samples
from solblom_models.tabular.data import encode, read_units
from solblom_models.tabular.expression import normal_scores
from solblom_models.tabular.table_file import read_csv, read_table
from solblom_protocol.errors import DataError

NAN = float("nan")
SAMPLES = np.array([[0.0, 1.0, 3.0, 7.0], [15.0, 0.0, 0.0, 1.0], [2.5, NAN, 1.0, 0.25]])


def features(folder: Path, values: Any, **changes: Any) -> np.ndarray:
    found = contract(**changes)
    path = write_samples(folder / "samples.csv", np.asarray(values, dtype=np.float64))
    return encode(read_table(path, id_column="patient_id", contract=found), found)


def refusal(folder: Path, values: Any, **changes: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        features(folder, values, **changes)
    return caught.value


def test_log2_is_of_the_value_and_one(tmp_path: Path) -> None:
    found = features(tmp_path, SAMPLES[:2], transform="log2", scale=2.0)
    assert found.tolist() == [[0.0, 0.5, 1.0, 1.5], [2.0, 0.0, 0.0, 0.5]]


def test_public_constants_are_one_for_all_or_one_a_gene(tmp_path: Path) -> None:
    one = features(tmp_path, [[1.0, 2.0, 0.5, 1.5]], center=1.0, scale=0.5)
    assert one.tolist() == [[0.0, 2.0, -1.0, 1.0]]
    each = features(tmp_path, [[1.0, 2.0, 0.5, 1.5]], center=[0, 1, 0, 1], scale=[1, 2, 1, 2])
    assert each.tolist() == [[1.0, 0.5, 0.5, 0.25]]


def test_features_are_limited_to_three(tmp_path: Path) -> None:
    assert features(tmp_path, [[9.0, 1.0, 0.0, 2.0]], center=5.0).tolist() == [[3.0, -3, -3, -3]]


@pytest.mark.parametrize(
    "values", [[3.0, 1.0, 2.0, 9.0], [0, 0, 0, 1.0], [5, 5, 5, 5], [0, 2, 0, 2]]
)
def test_normal_scores_are_those_of_mean_ranks(values: list[float]) -> None:
    expected = norm.ppf((rankdata(values, method="average") - 0.5) / len(values))
    assert normal_scores(np.array(values)) == pytest.approx(expected, abs=1e-12)


def test_normal_scores_of_many_random_values_with_ties() -> None:
    values = np.random.default_rng(5).integers(0, 40, size=3000).astype(np.float64)
    expected = norm.ppf((rankdata(values) - 0.5) / 3000)
    assert normal_scores(values) == pytest.approx(expected, abs=1e-12)


def test_ranks_do_not_change_when_a_sample_is_measured_on_another_scale(tmp_path: Path) -> None:
    values = SAMPLES[:2]
    plain = features(tmp_path, values, transform="rank")
    assert np.array_equal(plain, features(tmp_path, 100 * values + 3, transform="rank"))


def test_a_missing_gene_is_its_centre_and_takes_no_part_in_the_ranks(tmp_path: Path) -> None:
    found = features(tmp_path, SAMPLES, transform="rank", center=0.25)
    expected = norm.ppf((rankdata([2.5, 1.0, 0.25]) - 0.5) / 3) - 0.25
    assert found[2, [0, 2, 3]] == pytest.approx(expected, abs=1e-6)
    assert found[2, 1] == 0.0


def test_only_inputs_reach_the_model_but_all_genes_make_the_ranks(tmp_path: Path) -> None:
    whole = features(tmp_path, SAMPLES, transform="rank")
    some = features(tmp_path, SAMPLES, transform="rank", inputs=["ENSG1.5", "TP53"])
    assert np.array_equal(some, whole[:, [3, 0]])


def test_a_gene_set_is_the_mean_of_its_standardised_genes(tmp_path: Path) -> None:
    sets = {"b": ["TP53", "MLH1"], "a": ["HLA-A", "ENSG1.5", "TP53"]}
    rest = {"transform": "log2", "center": 1.0, "scale": 2.0}
    whole = features(tmp_path, SAMPLES, **rest)
    found = features(tmp_path, SAMPLES, gene_sets=sets, set_scale=0.5, **rest)
    means = [whole[:, [2, 3, 0]].mean(axis=1), whole[:, :2].mean(axis=1)]
    assert found == pytest.approx(np.stack(means, axis=1) / 0.5, abs=1e-6)


@pytest.mark.parametrize("transform", ["none", "log2", "rank"])
def test_features_of_one_sample_do_not_depend_on_the_others(tmp_path: Path, transform: str) -> None:
    change = {"transform": transform, "gene_sets": {"s": list(GENES)}, "inputs": list(GENES)}
    among = features(tmp_path, SAMPLES, **change)
    for row, sample in enumerate(SAMPLES):
        assert np.array_equal(features(tmp_path, [sample], **change)[0], among[row])


def test_more_rows_than_are_done_at_once_keep_their_order(tmp_path: Path) -> None:
    values = np.arange(4 * 150, dtype=np.float64).reshape(150, 4) % 97
    found = features(tmp_path, values, scale=100.0)
    assert found == pytest.approx(values / 100.0, abs=1e-6)


def test_variables_stand_before_genes(tmp_path: Path) -> None:
    found = contract(variables=True)
    (tmp_path / "t.csv").write_text(
        "patient_id,TP53,age,MLH1,smoker,HLA-A,grade,ENSG1.5,ill\np1,1,60,2,1,0,b,3,1\n"
    )
    units = read_units(read_csv(tmp_path / "t.csv", id_column="patient_id", contract=found), found)
    assert units.features.tolist() == [[1.0, 1.0, 0.0, 2.0, 0.0, 1.0, 2.0, 0.0, 3.0]]


def test_the_order_of_columns_does_not_matter(tmp_path: Path) -> None:
    found = contract()
    path = write_samples(tmp_path / "t.csv", SAMPLES[:, ::-1], GENES[::-1])
    turned = encode(read_csv(path, id_column="patient_id", contract=found), found)
    assert np.array_equal(turned, features(tmp_path, SAMPLES))


def test_negative_values_are_refused_under_log2_with_their_count(tmp_path: Path) -> None:
    error = refusal(tmp_path, [[0, 1, 2, 3], [-1, -0.5, 2, 3], [1, 1, -9.75, 0]], transform="log2")
    assert error.code == "SB-303"
    assert "3 values below 0" in error.message
    assert "in 2 rows, first in line 3" in error.message
    assert "9.75" not in error.message


def test_a_value_out_of_range_is_refused(tmp_path: Path) -> None:
    error = refusal(tmp_path, [[0, 1, 2, 123456.5]], maximum=1000.0)
    assert (error.code, "1 value outside 0 to 1000 TPM" in error.message) == ("SB-303", True)
    assert "123456" not in error.message


def test_the_ends_of_the_range_belong_to_it(tmp_path: Path) -> None:
    assert features(tmp_path, [[0.1, 0.7, 0.1, 0.7]], minimum=0.1, maximum=0.7).shape == (1, 4)


def test_a_sample_that_lacks_more_than_the_public_share_is_refused(tmp_path: Path) -> None:
    error = refusal(tmp_path, [[0, 1, 2, 3], [NAN, NAN, 2, 3]])
    assert error.code == "SB-312"
    assert "1 sample lacks more than 25.0% of 4 genes, first in line 3" in error.message


def test_absent_columns_count_as_missing_and_too_many_are_named(tmp_path: Path) -> None:
    found = contract()
    few = write_samples(tmp_path / "few.csv", SAMPLES[:2, :3], GENES[:3])
    table = read_csv(few, id_column="patient_id", contract=found)
    assert encode(table, found)[:, 3].tolist() == [0.0, 0.0]
    fewer = write_samples(tmp_path / "fewer.csv", SAMPLES[:2, :2], GENES[:2])
    with pytest.raises(DataError) as caught:
        encode(read_csv(fewer, id_column="patient_id", contract=found), found)
    assert caught.value.code == "SB-301"
    assert "lacks 2 of 4 genes" in caught.value.message
    assert "HLA-A, ENSG1.5" in caught.value.message


def cells(folder: Path, *row: str, **changes: Any) -> np.ndarray:
    """Return the features of one sample, of whose genes the cells are given."""
    found = contract(**changes)
    text = f"patient_id,{','.join(GENES)},ill\np1,{','.join(row)},1\n"
    (folder / "cells.csv").write_text(text, encoding="utf-8")
    return encode(read_csv(folder / "cells.csv", id_column="patient_id", contract=found), found)[0]


@pytest.mark.parametrize(
    "cell", ["1_5", "nan", "inf", "0x1", "١", '"1,5"', "kari-0101", "1e0005", "-", "."]
)
def test_what_is_no_plain_number_is_refused_without_saying_it(tmp_path: Path, cell: str) -> None:
    with pytest.raises(DataError) as caught:
        cells(tmp_path, "1", cell, "2", "3")
    assert caught.value.code == "SB-302"
    assert "1 value that is not a number, in 1 row, first in line 2" in caught.value.message
    assert "kari" not in caught.value.message


@pytest.mark.parametrize("cell", ["", " ", "NA", "-9", "-9.0"])
def test_missing_codes_of_words_and_numbers_are_missing(tmp_path: Path, cell: str) -> None:
    found = cells(tmp_path, "1", cell, "2", "2.5", missing=["NA", "-9"], center=0.5)
    assert found.tolist() == [0.5, 0.0, 1.5, 2.0]


def test_a_number_is_read_alike_beside_words_and_without(tmp_path: Path) -> None:
    quick = cells(tmp_path, "1.5e0", "+2", ".5", "2.")
    slow = cells(tmp_path, "1.5e0", " +2", ".5", "2.")
    assert quick.tolist() == slow.tolist() == [1.5, 2.0, 0.5, 2.0]


def test_columns_that_no_hospital_approved_are_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("patient_id,TP53,MLH1,HLA-A,ENSG1.5,KRAS,name,ill\np1,1,1,1,1,9,Kari,1\n")
    table = read_csv(path, id_column="patient_id", contract=contract())
    assert set(table.columns) == {"ill"}
    assert table.genes is not None
    assert table.genes.values.shape == (1, 4)


def test_a_table_read_without_its_contract_is_refused(tmp_path: Path) -> None:
    path = write_samples(tmp_path / "t.csv", SAMPLES)
    with pytest.raises(DataError, match="without the contract"):
        encode(read_csv(path, id_column="patient_id"), contract())
