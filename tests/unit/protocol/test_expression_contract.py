"""Expression in a contract: thousands of genes in a few lines, contradictions found when it is read."""

from pathlib import Path
from typing import Any

import pytest
import tomli_w

from expression_lab import GENES, contract, contract_tables
from lab import STUDY, study_document
from solblom_models.study_document import resolve
from solblom_models.tabular.data import feature_names
from solblom_protocol.contracts.table import Contract
from solblom_protocol.errors import ConfigurationError
from solblom_protocol.studies.study import StudyDocument, load_study, parse_document
from solblom_protocol.studies.tables import Study
from solblom_protocol.toml_file import parse
from unit.protocol.samples import write_study


def refusal(**changes: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        contract(**changes)
    assert caught.value.code in ("SB-102", "SB-103")
    return caught.value.message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"columns": []}, "expression.columns"),
        ({"columns": ["TP53", "TP53"]}, "gene stands twice: TP53"),
        ({"columns": [f"G{n}" for n in range(20_001)]}, "expression.columns"),
        ({"maximum": 0.0}, "minimum must be below maximum"),
        ({"minimum": -1.0, "transform": "log2"}, "minimum is below 0"),
        ({"transform": "zscore"}, "expression.transform"),
        ({"inputs": ["KRAS"]}, "inputs: not in columns: KRAS"),
        ({"inputs": ["TP53", "TP53"]}, "gene of inputs stands twice"),
        ({"gene_sets": {"repair": ["MLH1", "KRAS"]}}, "repair: not in columns: KRAS"),
        ({"gene_sets": {"repair": []}}, "expression.gene_sets"),
        ({"center": [0.0, 1.0]}, "center has 2 values, columns 4"),
        ({"scale": [1.0] * 5}, "scale has 5 values, columns 4"),
        ({"scale": 0.0}, "expression.scale"),
        ({"scale": [1.0, 1.0, 1.0, -1.0]}, "expression.scale"),
        ({"set_scale": 0.0}, "expression.set_scale"),
        ({"max_missing": 1.0}, "expression.max_missing"),
        ({"columns": ["TP53", "ill"]}, "a gene is also a variable or the target: ill"),
        ({"transfrom": "rank"}, "did you mean `transform`?"),
    ],
)
def test_a_contradiction_is_refused(change: dict[str, Any], words: str) -> None:
    assert words in refusal(**change)


def test_a_gene_is_no_variable() -> None:
    assert "also a variable" in refusal(variables=True, columns=["age", "TP53"])


def test_genes_need_no_variable_beside_them_but_may_have_some() -> None:
    assert feature_names(contract()) == tuple(f"gene:{gene}" for gene in GENES)
    both = feature_names(contract(variables=True))
    assert both[:2] == ("age", "smoker")
    assert both[-4:] == feature_names(contract())


def test_a_contract_without_variables_and_genes_is_refused() -> None:
    tables = contract_tables()
    del tables["expression"]
    with pytest.raises(ConfigurationError, match="a variable or an expression"):
        parse(Contract, tables, source="lab")


def test_gene_sets_take_the_place_of_genes_unless_both_are_asked_for() -> None:
    sets = {"b": ["TP53", "MLH1"], "a": ["HLA-A"]}
    assert feature_names(contract(gene_sets=sets)) == ("set:a", "set:b")
    both = contract(gene_sets=sets, inputs=["MLH1"])
    assert feature_names(both) == ("gene:MLH1", "set:a", "set:b")


def signed(tables: dict[str, Any]) -> StudyDocument:
    return resolve(parse(Study, STUDY, source="lab"), parse(Contract, tables, source="lab"))


def test_the_order_in_which_gene_sets_are_written_changes_neither_study_nor_features() -> None:
    one, two = {"b": ["TP53"], "a": ["MLH1"]}, {"a": ["MLH1"], "b": ["TP53"]}
    first, second = signed(contract_tables(gene_sets=one)), signed(contract_tables(gene_sets=two))
    assert first.digest == second.digest
    assert feature_names(parse_document(first.payload()).contract) == feature_names(first.contract)


@pytest.mark.parametrize("change", [{}, {"transform": "rank", "center": [0.0, 0.5, 1.0, 2.0]}])
def test_a_signed_study_carries_every_gene(change: dict[str, Any]) -> None:
    document = signed(contract_tables(**change))
    again = parse_document(document.payload())
    assert again.contract == document.contract
    assert again.contract.expression is not None
    assert again.contract.expression.columns == GENES


def test_twenty_thousand_genes_fit_into_a_signed_study() -> None:
    names = [f"ENSG{n:011d}" for n in range(20_000)]
    tables = contract_tables(columns=names, center=[0.5] * 20_000, scale=[1.5] * 20_000)
    document = signed(tables)
    assert len(feature_names(parse_document(document.payload()).contract)) == 20_000


def test_a_study_without_genes_is_as_before() -> None:
    assert study_document().contract.expression is None


def listed(folder: Path, text: str, **changes: Any) -> Path:
    tables = contract_tables(columns_file="genes.txt", **changes)
    if "columns" not in changes:
        del tables["expression"]["columns"]
    (folder / "genes.txt").write_text(text, encoding="utf-8")
    path = write_study(folder)
    (folder / "contract.toml").write_text(tomli_w.dumps(tables), encoding="utf-8")
    return path


def test_genes_may_stand_in_a_file_and_are_signed_by_name(tmp_path: Path) -> None:
    _, found, _ = load_study(listed(tmp_path, "TP53\n\n MLH1 \nHLA-A\nENSG1.5\n"))
    assert found == contract()


def test_two_lists_of_genes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="give one") as caught:
        load_study(listed(tmp_path, "TP53\n", columns=["TP53"]))
    assert caught.value.code == "SB-103"


def test_a_missing_list_of_genes_is_named(tmp_path: Path) -> None:
    path = listed(tmp_path, "")
    (tmp_path / "genes.txt").unlink()
    with pytest.raises(ConfigurationError, match=r"genes\.txt") as caught:
        load_study(path)
    assert caught.value.code == "SB-101"


def test_table_one_names_variables_not_genes(tmp_path: Path) -> None:
    path = write_study(
        tmp_path,
        contract=contract_tables(variables=True),
        table_one={"epsilon": 0.5, "variables": ["age", "TP53"]},
    )
    with pytest.raises(ConfigurationError, match="unknown: TP53"):
        load_study(path)
