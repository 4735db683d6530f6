"""From a table to features: by the contract alone, and no message ever carries a cell."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lab import study_document
from solblom_models.tabular.data import encode, feature_names, read_inputs, read_units
from solblom_models.tabular.table_file import Table, read_csv
from solblom_protocol.errors import DataError

HEADER = "patient_id,age,smoker,grade,ill"
LAB = study_document().contract


def table(text: str, folder: Path) -> Table:
    path = folder / "patients.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_csv(path, id_column="patient_id")


def refusal(text: str, folder: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        read_units(table(text, folder), LAB)
    return caught.value


def features(folder: Path, **cells: str) -> list[float]:
    """Return the features of one patient: age 60, smoker, grade b, or as given."""
    row = {"age": "60", "smoker": "1", "grade": "b"} | cells
    text = f"{HEADER}\np1,{row['age']},{row['smoker']},{row['grade']},1\n"
    encoded: list[float] = encode(table(text, folder), LAB)[0].tolist()
    return encoded


def test_a_patient_becomes_standardised_number_sign_and_one_of_the_levels(tmp_path: Path) -> None:
    assert features(tmp_path) == [1.0, 1.0, 0.0, 2.0, 0.0]


def test_features_are_named_by_variable_and_level() -> None:
    assert feature_names(LAB) == ("age", "smoker", "grade=a", "grade=b", "grade=c")


@pytest.mark.parametrize("age", ["", "?", "  "])
def test_a_missing_number_is_the_public_centre(tmp_path: Path, age: str) -> None:
    assert features(tmp_path, age=age)[0] == 0.0


def test_a_missing_truth_value_is_between_yes_and_no(tmp_path: Path) -> None:
    assert features(tmp_path, smoker="")[1] == 0.0


def test_a_missing_category_is_none_of_the_levels(tmp_path: Path) -> None:
    assert features(tmp_path, grade="")[2:] == [0.0, 0.0, 0.0]


def test_no_is_the_opposite_of_yes(tmp_path: Path) -> None:
    assert features(tmp_path, smoker="0")[1] == -features(tmp_path, smoker="1")[1]


@pytest.mark.parametrize(("age", "feature"), [("0", -3.0), ("120", 3.0), ("81", 3.0), ("79", 2.9)])
def test_a_standardised_number_is_limited_to_three(
    tmp_path: Path, age: str, feature: float
) -> None:
    assert features(tmp_path, age=age)[0] == pytest.approx(feature)


def test_scales_of_the_contract_are_used(tmp_path: Path) -> None:
    age, smoker, grade = LAB.variable
    scaled = [smoker.model_copy(update={"scale": 1.25}), grade.model_copy(update={"scale": 0.5})]
    contract = LAB.model_copy(update={"variable": (age, *scaled)})
    encoded = encode(table(f"{HEADER}\np1,60,0,c,1\n", tmp_path), contract)[0]
    assert encoded.tolist() == [1.0, -1.25, 0.0, 0.0, 0.5]


def test_spaces_around_a_cell_and_a_column_name_do_not_matter(tmp_path: Path) -> None:
    spaced = table("patient_id , age,smoker,grade , ill\np1 , 60 ,1 , b, 1\n", tmp_path)
    plain = table(f"{HEADER}\np1,60,1,b,1\n", tmp_path)
    assert spaced == plain


def test_a_byte_order_mark_does_not_hide_the_first_column(tmp_path: Path) -> None:
    assert table(f"\ufeff{HEADER}\np1,60,1,b,1\n", tmp_path).ids == ("p1",)


def test_empty_lines_are_no_patients(tmp_path: Path) -> None:
    assert table(f"{HEADER}\n\np1,60,1,b,1\n\n", tmp_path).ids == ("p1",)


def test_columns_that_the_contract_does_not_name_are_left_alone(tmp_path: Path) -> None:
    units = read_units(table(f"{HEADER},name\np1,60,1,b,1,Kari\n", tmp_path), LAB)
    assert units.features.shape == (1, 5)


def test_the_order_of_columns_does_not_matter(tmp_path: Path) -> None:
    turned = read_units(table("ill,grade,smoker,age,patient_id\n1,b,1,60,p1\n", tmp_path), LAB)
    plain = read_units(table(f"{HEADER}\np1,60,1,b,1\n", tmp_path), LAB)
    assert turned.row_bytes(0) == plain.row_bytes(0)


def test_labels_follow_the_targets_codes(tmp_path: Path) -> None:
    units = read_units(table(f"{HEADER}\np1,60,1,b,1\np2,61,0,a,0\n", tmp_path), LAB)
    assert units.labels.tolist() == [1, 0]


def test_rows_without_a_label_can_be_read_for_prediction(tmp_path: Path) -> None:
    units = read_inputs(table("patient_id,age,smoker,grade\np1,60,1,b\n", tmp_path), LAB)
    assert units.labels.tolist() == [0]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("age,smoker,grade,ill\n60,1,b,1\n", "SB-301"),
        ("patient_id,age,age,grade,ill\np1,60,60,b,1\n", "SB-301"),
        ("patient_id,age,grade,ill\np1,60,b,1\n", "SB-301"),
        ("patient_id,age,smoker,grade\np1,60,1,b\n", "SB-301"),
        (f"{HEADER}\np1,60,1,b\n", "SB-302"),
        (f"{HEADER}\np1,60,1,b,1,1\n", "SB-302"),
        (f"{HEADER}\np1,sixty,1,b,1\n", "SB-302"),
        (f'{HEADER}\np1,"60,5",1,b,1\n', "SB-302"),
        (f"{HEADER}\np1,60,yes,b,1\n", "SB-302"),
        (f"{HEADER}\np1,60,1,B,1\n", "SB-302"),
        (f"{HEADER}\np1,60,1,b,\n", "SB-302"),
        (f"{HEADER}\np1,60,1,b,2\n", "SB-302"),
        (f"{HEADER}\n,60,1,b,1\n", "SB-302"),
        (f"{HEADER}\np1,120.5,1,b,1\n", "SB-303"),
        (f"{HEADER}\np1,-1,1,b,1\n", "SB-303"),
        (f"{HEADER}\np1,nan,1,b,1\n", "SB-302"),
        (f"{HEADER}\np1,inf,1,b,1\n", "SB-302"),
        (f"{HEADER}\np1,60,1,b,1\np1,61,0,a,0\n", "SB-304"),
        ("", "SB-307"),
        (f'{HEADER}\np1,60,1,b,"1\n', "SB-307"),
    ],
)
def test_a_table_that_does_not_obey_the_contract_is_refused(
    tmp_path: Path, text: str, code: str
) -> None:
    assert refusal(text, tmp_path).code == code


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("patient_id,age,grade,ill\np1,60,b,1\n", "The table lacks 1 column: smoker"),
        ("patient_id,grade,ill\np1,b,1\n", "The table lacks 2 columns: age, smoker"),
        (f"{HEADER}\np1,130,1,b,1\n", "`age` is outside 0 to 120 a in 1 row, first in line 2"),
        (f"{HEADER}\n,60,1,b,1\n", "1 row has no patient id"),
    ],
)
def test_a_message_counts_one_as_one(tmp_path: Path, text: str, message: str) -> None:
    assert refusal(text, tmp_path).message == message


def test_a_table_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "patients.csv").write_bytes(f"{HEADER}\nBjørn".encode("latin-1"))
    with pytest.raises(DataError) as caught:
        read_csv(tmp_path / "patients.csv", id_column="patient_id")
    assert caught.value.code == "SB-307"


def test_a_missing_table_is_refused_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: No such file") as caught:
        read_csv(tmp_path / "patients.csv", id_column="patient_id")
    assert caught.value.code == "SB-307"


def test_the_ends_of_a_range_belong_to_it(tmp_path: Path) -> None:
    rows = f"{HEADER}\np1,0,1,b,1\np2,120,1,b,0\n"
    assert len(read_units(table(rows, tmp_path), LAB).ids) == 2


CELL = "kari-nordmann-0101"


@pytest.mark.parametrize(
    "row",
    [
        f"p1,{CELL},1,b,1",
        f"p1,60,{CELL},b,1",
        f"p1,60,1,{CELL},1",
        f"p1,60,1,b,{CELL}",
        f"{CELL},60,1,b,1\n{CELL},60,1,b,1",
        f"{CELL},999,1,b,1",
        f"{CELL},60,1,b",
        f'{CELL},60,1,b,"1',
    ],
)
def test_no_message_carries_a_cell(tmp_path: Path, row: str) -> None:
    error = refusal(f"{HEADER}\n{row}\n", tmp_path)
    assert CELL not in error.message + error.hint
    assert "999" not in error.message


def test_a_message_says_how_many_rows_and_the_first_line(tmp_path: Path) -> None:
    rows = "\n".join(["p1,60,1,b,1", "p2,old,1,b,1", "p3,x,1,b,0"])
    message = refusal(f"{HEADER}\n{rows}\n", tmp_path).message
    assert message == "`age` is not a number in 2 rows, first in line 3"


def test_a_batch_has_the_chosen_patients_in_the_order_given(tmp_path: Path) -> None:
    rows = f"{HEADER}\np1,50,1,b,1\np2,60,1,b,0\np3,70,1,b,1\n"
    units = read_units(table(rows, tmp_path), LAB)
    ages, labels, weights = units.batch([2, 0])
    assert (ages[:, 0].tolist(), labels.tolist()) == ([2.0, 0.0], [1.0, 1.0])
    assert weights.tolist() == [1.0, 1.0]
    assert units.select([2, 0]).ids == ("p3", "p1")


def test_only_a_positive_patient_has_the_public_weight(tmp_path: Path) -> None:
    rows = f"{HEADER}\np1,50,1,b,1\np2,60,1,b,0\n"
    units = replace(read_units(table(rows, tmp_path), LAB), positive_weight=3.0)
    assert units.batch([0, 1])[2].tolist() == [3.0, 1.0]
    assert units.select([1, 0]).batch([1])[2].tolist() == [3.0]


def test_an_empty_batch_keeps_its_width(tmp_path: Path) -> None:
    units = read_units(table(f"{HEADER}\np1,50,1,b,1\n", tmp_path), LAB)
    shapes = [tuple(tensor.shape) for tensor in units.batch([])]
    assert shapes == [(0, 5), (0,), (0,)]


def test_features_of_one_patient_do_not_depend_on_the_others(tmp_path: Path) -> None:
    alone = read_units(table(f"{HEADER}\np1,63,1,,1\n", tmp_path), LAB)
    among = read_units(table(f"{HEADER}\np1,63,1,,1\np2,20,0,a,0\np3,100,1,c,0\n", tmp_path), LAB)
    assert np.array_equal(alone.features[0], among.features[0])


@pytest.mark.parametrize("age", ["1_5", "١٥"])
def test_a_number_in_a_spelling_of_python_is_refused(tmp_path: Path, age: str) -> None:
    assert refusal(f"{HEADER}\np1,{age},1,b,1\n", tmp_path).code == "SB-302"
