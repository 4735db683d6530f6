"""A hospital's own units and codes: converted as the contract allows, refused where it does not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lab import LabHospital
from solblom_client.approvals.approval import approve
from solblom_client.keys import read_node_keys
from solblom_client.policy import load_node_config
from solblom_models.study_document import resolve
from solblom_models.tabular.data import read_units
from solblom_models.tabular.harmonise import Harmonisation, harmonise, look_at, read_map
from solblom_models.tabular.table_file import Table
from solblom_protocol.contracts.table import Contract
from solblom_protocol.errors import ConfigurationError, DataError
from solblom_protocol.messages.result import Refusal, Result
from solblom_protocol.studies.study import StudyDocument, parse_document
from solblom_protocol.studies.tables import Study
from solblom_protocol.toml_file import parse

MEANING = {"en": "made up", "no": "oppdiktet"}
GLUCOSE: dict[str, Any] = {
    "kind": "number",
    "name": "glucose",
    "column": "glucose",
    "unit": "mmol/L",
    "minimum": 1,
    "maximum": 40,
    "center": 6,
    "scale": 2,
    "missing": ["-9"],
    "accepts": [{"unit": "mg/dL", "factor": 0.0555}],
    "meaning": MEANING,
}
DIAGNOSIS: dict[str, Any] = {
    "kind": "category",
    "name": "diagnosis",
    "column": "diagnosis",
    "levels": ["5A10", "5A11"],
    "code_system": "ICD-11",
    "meaning": MEANING,
}


def contract(*variables: dict[str, Any]) -> Contract:
    target = {"name": "ill", "column": "ill", "positive": ["1"], "negative": ["0"]}
    value = {"name": "lab", "version": 1, "target": {**target, "meaning": MEANING}}
    return parse(Contract, {**value, "variable": list(variables)}, source="lab")


def table(**columns: tuple[str, ...]) -> Table:
    count = len(next(iter(columns.values())))
    labels = tuple(str(number % 2) for number in range(count))
    return Table(tuple(f"p{n}" for n in range(count)), {**columns, "ill": labels})


def icd_map(folder: Path, text: str = "from,to\nE10,5A10\nE11,5A11\n") -> Path:
    path = folder / "icd10_to_icd11.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_two_units_of_one_number_give_the_same_features() -> None:
    asked = contract(GLUCOSE)
    here = read_units(table(glucose=("5.55", "11.1", "-9", "")), asked)
    there = harmonise(
        table(glucose=("100", "200", "-9", "")), asked, Harmonisation({"glucose": "mg/dL"})
    )
    np.testing.assert_allclose(read_units(there, asked).features, here.features, atol=1e-6)


def test_another_unit_without_a_declared_conversion_is_out_of_range() -> None:
    asked = contract(GLUCOSE)
    with pytest.raises(DataError) as caught:
        read_units(harmonise(table(glucose=("100", "200")), asked, Harmonisation()), asked)
    assert caught.value.code == "SB-303"


def test_a_unit_that_the_contract_does_not_accept_is_refused() -> None:
    with pytest.raises(DataError, match=r"accept the unit g/L; it accepts mmol/L, mg/dL") as caught:
        harmonise(table(glucose=("1",)), contract(GLUCOSE), Harmonisation({"glucose": "g/L"}))
    assert caught.value.code == "SB-313"


def test_an_offset_is_added_after_the_factor() -> None:
    warmth = GLUCOSE | {"unit": "Cel", "minimum": 30, "maximum": 45}
    warmth |= {"accepts": [{"unit": "[degF]", "factor": 5 / 9, "offset": -160 / 9}]}
    found = harmonise(
        table(glucose=("98.6",)), contract(warmth), Harmonisation({"glucose": "[degF]"})
    )
    assert float(found.columns["glucose"][0]) == pytest.approx(37.0)


def test_a_converted_number_is_never_taken_for_a_missing_code() -> None:
    asked = contract(GLUCOSE | {"missing": ["20.0"], "accepts": [{"unit": "x", "factor": 2.0}]})
    found = harmonise(table(glucose=("10", "11")), asked, Harmonisation({"glucose": "x"}))
    assert float(read_units(found, asked).features[0, 0]) == 3.0


def test_icd_10_and_icd_11_sites_harmonise_to_one_variable(tmp_path: Path) -> None:
    asked = contract(DIAGNOSIS)
    new = read_units(table(diagnosis=("5A10", "5A11", "")), asked)
    given = Harmonisation(maps={"diagnosis": icd_map(tmp_path)})
    old = read_units(harmonise(table(diagnosis=("E10", "E11", "")), asked, given), asked)
    np.testing.assert_array_equal(old.features, new.features)


def test_a_map_is_noted_by_its_digest_and_version(tmp_path: Path) -> None:
    path = icd_map(tmp_path, "from,to,version\nE10,5A10,2024-01\nE11,5A11,2024-01\n")
    found = harmonise(
        table(diagnosis=("E10", "E11")),
        contract(DIAGNOSIS),
        Harmonisation(maps={"diagnosis": path}),
    )
    assert found.notes == {
        f"values of diagnosis mapped by {read_map(path).digest} (2024-01)": 2,
    }


def test_an_unmapped_code_is_refused_by_count_and_never_by_name(tmp_path: Path) -> None:
    given = Harmonisation(maps={"diagnosis": icd_map(tmp_path)})
    with pytest.raises(DataError) as caught:
        harmonise(table(diagnosis=("E10", "RARE-1", "RARE-1")), contract(DIAGNOSIS), given)
    assert caught.value.code == "SB-313"
    assert "2 values have" in caught.value.message
    assert "RARE" not in caught.value.message


def test_an_unmapped_code_counts_as_missing_where_the_contract_says_so(tmp_path: Path) -> None:
    asked = contract(DIAGNOSIS | {"unmapped": "missing"})
    given = Harmonisation(maps={"diagnosis": icd_map(tmp_path)})
    found = look_at(table(diagnosis=("E10", "X1", "X1")), asked, given)
    assert found.unmapped == {"diagnosis": {"X1": 2}}
    assert read_units(found.table, asked).features[1].tolist() == [0.0, 0.0]


def test_a_code_that_looks_like_the_contracts_but_is_not_in_the_map_is_unmapped(
    tmp_path: Path,
) -> None:
    """In the hospital's own system 5A10 may mean something else."""
    found = look_at(
        table(diagnosis=("5A10", "E10")),
        contract(DIAGNOSIS),
        Harmonisation(maps={"diagnosis": icd_map(tmp_path)}),
    )
    assert found.unmapped == {"diagnosis": {"5A10": 1}}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("from,to\nE10,5A10\nE10,5A11\n", "line 3 of the map gives a code a second meaning"),
        ("old,new\nE10,5A10\n", "the map needs the columns from and to"),
        ("from,to\nE10\n", "line 2 of the map is not a row of its columns"),
        ("from,to\n,5A10\n", "line 2 of the map has an empty code"),
        ("from,to,system\nE10,5A10,ICD-10\n", "the map leads to ICD-10; the contract names ICD-11"),
        ("from,to,version\nE10,5A10,1\nE11,5A11,2\n", "the map names more than one version"),
        ("", "the map needs the columns from and to"),
        ('from,to\n"E10,5A10\n', "the map cannot be read as UTF-8 CSV"),
    ],
)
def test_a_map_that_is_not_sure_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    given = Harmonisation(maps={"diagnosis": icd_map(tmp_path, text)})
    with pytest.raises(DataError, match=problem) as caught:
        harmonise(table(diagnosis=("E10",)), contract(DIAGNOSIS), given)
    assert caught.value.code == "SB-313"


def test_a_target_is_mapped_and_an_unmapped_label_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ill.csv"
    path.write_text("from,to\nyes,1\nno,0\n", encoding="utf-8")
    asked, given = contract(GLUCOSE), Harmonisation(maps={"ill": path})
    rows = Table(("a", "b"), {"glucose": ("5", "6"), "ill": ("yes", "no")})
    assert read_units(harmonise(rows, asked, given), asked).labels.tolist() == [1, 0]
    odd = Table(("a", "b"), {"glucose": ("5", "6"), "ill": ("yes", "maybe")})
    with pytest.raises(DataError):
        harmonise(odd, asked, given)


def test_a_unit_stands_once_in_a_contract() -> None:
    with pytest.raises(ConfigurationError, match="a unit stands twice"):
        contract(GLUCOSE | {"accepts": [{"unit": "mmol/L", "factor": 2.0}]})


def test_a_contract_without_conversions_keeps_the_bytes_that_were_signed() -> None:
    plain = {k: v for k, v in GLUCOSE.items() if k != "accepts"}
    text = contract(plain, {k: v for k, v in DIAGNOSIS.items() if k != "code_system"})
    dumped = text.model_dump_json()
    for word in ("accepts", "unmapped", "code_system"):
        assert word not in dumped


def _study(asked: Contract) -> StudyDocument:
    from lab import STUDY

    return resolve(parse(Study, STUDY, source="lab"), asked, None)


def test_a_signed_study_with_conversions_reads_back_as_it_was_signed() -> None:
    document = _study(contract(GLUCOSE, DIAGNOSIS | {"unmapped": "missing"}))
    assert parse_document(document.payload()) == document


def _hospital(folder: Path, *, unit: str, line: str) -> LabHospital:
    """A hospital whose glucose has a unit and whose diagnoses have ICD-10 codes where the line names a map."""
    hospital = LabHospital(folder)
    factor, codes = (1.0, ("5A10", "5A11")) if unit == "mmol/L" else (1 / 0.0555, ("E10", "E11"))
    hospital.write_rows(
        [
            {
                "patient_id": row["patient_id"],
                "glucose": f"{(4 + number % 9) * factor:.4f}",
                "diagnosis": codes[number % 2],
                "ill": row["ill"],
            }
            for number, row in enumerate(hospital.rows)
        ]
    )
    icd_map(folder)
    file = folder / "node.toml"
    file.write_text(file.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    hospital.config = load_node_config(file)
    hospital.restart()
    return hospital


MG = 'units = { glucose = "mg/dL" }\nmaps = { diagnosis = "icd10_to_icd11.csv" }'


def test_a_vault_trains_on_declared_units_and_mapped_codes(tmp_path: Path) -> None:
    document = _study(contract(GLUCOSE, DIAGNOSIS))
    hospital = _hospital(tmp_path / "n", unit="mg/dL", line=MG)
    hospital.approve(document)
    assert isinstance(hospital.ask(hospital.order(document)), Result)


def test_the_same_hospital_without_the_declaration_is_not_approved(tmp_path: Path) -> None:
    document = _study(contract(GLUCOSE, DIAGNOSIS))
    hospital = _hospital(tmp_path / "n", unit="mg/dL", line="")
    with pytest.raises(DataError):
        hospital.approve(document)


def test_a_person_who_approves_reads_what_was_converted_and_mapped(tmp_path: Path) -> None:
    document = _study(contract(GLUCOSE, DIAGNOSIS))
    hospital = _hospital(tmp_path / "n", unit="mg/dL", line=MG)
    keys = read_node_keys(hospital.config.state)
    summary = approve(hospital.config, keys, hospital.sign(document), now=hospital.clock())
    told = "\n".join(summary.reading)
    assert "60 values of glucose converted from mg/dL to mmol/L" in told
    digest = read_map(tmp_path / "n" / "icd10_to_icd11.csv").digest
    assert digest in told
    folder = hospital.config.state / "approvals" / document.digest.removeprefix("sha256:")
    assert digest in (folder / "reading.json").read_text(encoding="utf-8")


def test_a_map_that_breaks_after_approval_says_nothing_outside(tmp_path: Path) -> None:
    document = _study(contract(GLUCOSE, DIAGNOSIS))
    hospital = _hospital(tmp_path / "n", unit="mg/dL", line=MG)
    hospital.approve(document)
    icd_map(tmp_path / "n", "from,to\nE10,5A10\n")
    reply = hospital.ask(hospital.order(document))
    assert isinstance(reply, Refusal)
    assert reply.code == "SB-209"


def test_units_and_maps_belong_to_tables(tmp_path: Path) -> None:
    hospital = LabHospital(tmp_path / "n")
    file = tmp_path / "n" / "node.toml"
    text = file.read_text(encoding="utf-8").replace('"table"', '"bags"')
    file.write_text(text + 'units = { a = "b" }\n', encoding="utf-8")
    with pytest.raises(ConfigurationError, match="units and maps belong to"):
        load_node_config(file)
    hospital.vault.close()


def test_a_value_in_a_unit_that_the_contract_accepts_but_nobody_declared_is_refused_with_the_line_to_write() -> (
    None
):
    with pytest.raises(DataError) as caught:
        read_units(table(glucose=("5.5", "110")), contract(GLUCOSE))
    assert caught.value.code == "SB-303"
    assert 'units = { glucose = "mg/dL" }' in caught.value.hint
