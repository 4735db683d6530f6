"""Write made-up patients to files, and read them back as a hospital's node would."""

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path

from solblom_models.mock.rows import ID_COLUMN, mock_rows
from solblom_protocol.contracts.bags import BagContract
from solblom_protocol.contracts.kinds import AnyContract
from solblom_protocol.contracts.phenopackets import PhenotypeContract
from solblom_protocol.contracts.table import Contract
from solblom_protocol.errors import ConfigurationError
from solblom_protocol.keys.key_files import write_new

LEAST_PATIENTS = 2  # one with each label
MOST_PATIENTS = 1_000_000


@dataclass(frozen=True)
class Mock:
    """What was written: how to name it in node.toml, and how many patients a node would read from it."""

    path: Path
    connector: str
    patients: int


def write_mock(contract: AnyContract, patients: int, *, seed: int, path: Path) -> Mock:
    """Write made-up patients that obey the contract: a CSV, phenopackets as JSON lines, or an index of bags.

    Raises:
        ConfigurationError: SB-103 the number or the file's name; SB-113 the file exists; SB-115 to SB-118 a public
            file or a package is missing.
        DataError: what was written does not obey the contract after all: a contract that no value can obey.
    """
    if not LEAST_PATIENTS <= patients <= MOST_PATIENTS:
        raise ConfigurationError(
            "SB-103", f"--patients is {LEAST_PATIENTS} to {MOST_PATIENTS:,}", ""
        )
    _check_name(contract, path)
    if isinstance(contract, Contract):
        return _write_table(contract, patients, seed, path)
    if isinstance(contract, PhenotypeContract):
        return _write_packets(contract, patients, seed, path)
    return _write_bags(contract, patients, seed, path)


def _check_name(contract: AnyContract, path: Path) -> None:
    wanted = ".jsonl" if isinstance(contract, PhenotypeContract) else ".csv"
    if path.suffix.lower() != wanted:
        raise ConfigurationError(
            "SB-103", f"{path.name}: made-up patients of this contract go into a {wanted} file", ""
        )


def _write_table(contract: Contract, patients: int, seed: int, path: Path) -> Mock:
    from solblom_models.tabular.data import read_units
    from solblom_models.tabular.harmonise import Harmonisation, harmonise
    from solblom_models.tabular.table_file import read_table

    header, rows = mock_rows(contract, patients, seed)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_new(path, text.getvalue().encode(), mode=0o644)
    table = read_table(path, id_column=ID_COLUMN, contract=contract)
    units = read_units(harmonise(table, contract, Harmonisation()), contract)
    return Mock(path, "table", len(units.ids))


def _write_packets(contract: PhenotypeContract, patients: int, seed: int, path: Path) -> Mock:
    from solblom_models.mock.packets import mock_packets
    from solblom_models.phenotype.knowledge import knowledge_of
    from solblom_models.phenotype.phenopacket import CaseRules, read_cases
    from solblom_models.phenotype.reading import Reading

    lines = [json.dumps(packet) for packet in mock_packets(contract, patients, seed)]
    write_new(path, ("\n".join(lines) + "\n").encode(), mode=0o644)
    rules = CaseRules(labels=contract.labels, patient_scope=contract.patients.scope)
    ontology = knowledge_of(contract).space.ontology
    read = sum(1 for _ in read_cases(path, ontology, Reading(), rules=rules))
    return Mock(path, "phenopackets", read)


def _write_bags(contract: BagContract, patients: int, seed: int, path: Path) -> Mock:
    from solblom_models.mock.bags import mock_bags
    from solblom_models.slide_mil.bags import BagIndex, read_bags

    mock_bags(contract, patients, seed, path)
    units = read_bags(BagIndex(path), contract)
    return Mock(path, "bags", len(units.ids))
