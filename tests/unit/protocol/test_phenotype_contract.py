"""The contract of phenopackets: what it refuses, and what a study may ask on it."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from ranking_lab import contract_tables, ranking_contract, ranking_document, write_release
from solblom_models.accountant import pld_epsilon
from solblom_protocol.contracts.kinds import RANK_CELLS, describable, read_contract
from solblom_protocol.contracts.phenopackets import PhenotypeContract
from solblom_protocol.contracts.table import Contract
from solblom_protocol.errors import ConfigurationError
from solblom_protocol.studies.study import parse_document
from solblom_protocol.toml_file import parse

PRIVATE = {"privacy": {"epsilon": 3.0}}
BY_PATIENT = {"split": {"by": "patient", "test_fraction": 0.3}}


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return write_release(tmp_path / "hpo", monkeypatch)


@pytest.fixture
def contract(release: Path) -> PhenotypeContract:
    return ranking_contract(release)


def test_a_contract_says_by_its_kind_what_it_is_of(release: Path, tmp_path: Path) -> None:
    path = tmp_path / "contract.toml"
    path.write_text(tomli_w.dumps(contract_tables(release)), encoding="utf-8")
    assert isinstance(read_contract(path), PhenotypeContract)
    heart = Path(__file__).parents[3] / "models/solblom_models/tabular/template/contract.toml"
    assert isinstance(read_contract(heart), Contract)


def test_the_templates_contract_is_whole() -> None:
    path = Path(__file__).parents[3] / "models/solblom_models/phenotype/template/contract.toml"
    found = read_contract(path)
    assert isinstance(found, PhenotypeContract)
    assert len(found.target.diseases) == 24


def _change(tables: dict[str, Any], *keys: str, to: object) -> dict[str, Any]:
    *inner, last = keys
    part = tables
    for key in inner:
        part = part[key]
    part[last] = to
    return tables


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("kind",), "tables"),
        (("ontology", "ontology"), "md5:00"),
        (("ontology", "release"), "latest"),
        (("features",), {"weights": "secret"}),
        (("features",), {"excluded_scale": -1.0}),
        (("patients",), {"scope": "everybody"}),
        (("surprise",), 1),
    ],
)
def test_wrong_members_are_refused(release: Path, keys: tuple[str, ...], value: object) -> None:
    tables = _change(contract_tables(release), *keys, to=value)
    with pytest.raises(ConfigurationError) as caught:
        parse(PhenotypeContract, tables, source="contract.toml")
    assert caught.value.code in ("SB-102", "SB-103")


@pytest.mark.parametrize(
    ("diseases", "named"),
    [
        ([{"id": "OMIM:1", "name": "x"}], "at least 2"),
        ([{"id": "OMIM:1", "name": "x"}, {"id": "OMIM:1", "name": "y"}], "twice"),
        ([{"id": "OMIM:2", "name": "x"}, {"id": "OMIM:1", "name": "y"}], "order"),
        (
            [{"id": "OMIM:1", "name": "x", "also": ["OMIM:2"]}, {"id": "OMIM:2", "name": "y"}],
            "twice",
        ),
        ([{"id": "HP:1", "name": "x"}, {"id": "OMIM:1", "name": "y"}], "match"),
    ],
)
def test_a_label_space_that_is_not_clear_is_refused(
    release: Path, diseases: list[dict[str, Any]], named: str
) -> None:
    tables = _change(contract_tables(release), "target", "diseases", to=diseases)
    with pytest.raises(ConfigurationError, match=named):
        parse(PhenotypeContract, tables, source="contract.toml")


def test_a_signed_study_on_phenopackets_comes_back_as_it_was(contract: PhenotypeContract) -> None:
    document = ranking_document(contract, **PRIVATE)
    again = parse_document(document.payload())
    assert again == document
    assert isinstance(again.contract, PhenotypeContract)


def test_an_evaluation_has_one_cell_a_rank(contract: PhenotypeContract) -> None:
    assert ranking_document(contract).evaluation_cells == RANK_CELLS == 11


def test_table_one_may_name_what_cases_have(contract: PhenotypeContract) -> None:
    assert describable(contract) == {"disease", "sex", "age_band"}
    with pytest.raises(ConfigurationError, match="unknown: height"):
        ranking_document(contract, **PRIVATE, table_one={"epsilon": 1.0, "variables": ["height"]})


def test_an_auroc_of_ranked_diseases_cannot_be_named(contract: PhenotypeContract) -> None:
    asked = {"releases": 1, "named": ["site-auroc"], **BY_PATIENT}
    with pytest.raises(ConfigurationError, match="AUROC"):
        ranking_document(contract, **PRIVATE, evaluation=asked)


def test_a_split_by_groups_charges_training_and_evaluation_to_the_same_patients(
    contract: PhenotypeContract,
) -> None:
    """Another study may split by patient, so no patient may count on being on one side (privacy.md rule 6)."""
    asked = {"releases": 1, "epsilon": 1.0}
    grouped = ranking_document(contract, **PRIVATE, evaluation=asked)
    for event in grouped.all_events:
        assert (Decimal(event.patients_from), Decimal(event.patients_to)) == (0, 1)
    assert 2.9 < pld_epsilon(grouped.all_events, 1e-5) <= 3.0
    apart = ranking_document(contract, **PRIVATE, evaluation={**asked, **BY_PATIENT})
    assert float(grouped.noise_multiplier or 0) > float(apart.noise_multiplier or 0)


def test_a_split_by_groups_needs_a_share_for_the_evaluation(contract: PhenotypeContract) -> None:
    with pytest.raises(ConfigurationError, match=r"evaluation\.epsilon is not set"):
        ranking_document(contract, **PRIVATE, evaluation={"releases": 1})
