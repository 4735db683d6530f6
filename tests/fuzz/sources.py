"""Parsers of what a hospital and a researcher bring as files: contracts, tables, maps, consents, cases, indexes."""

import contextlib
import json
import tempfile
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tomli_w

from fuzz.target import Target, file_in
from lab import CONTRACT, patient_rows
from phenotype_lab import packet, small_ontology
from solblom_client.consent.sources.csv_table import read_csv as read_consent_csv
from solblom_client.consent.sources.fhir_bundle import read_fhir
from solblom_client.consent.sources.fhir_consent import FhirSettings
from solblom_models.phenotype.phenopacket import CaseRules, read_cases
from solblom_models.phenotype.reading import Reading
from solblom_models.slide_mil.bag_file import (
    BagFileError,
    read_bag,
    read_labels,
    tile_count,
    write_bag,
)
from solblom_models.slide_mil.bags import BagIndex, read_bags
from solblom_models.tabular.data import read_units
from solblom_models.tabular.harmonise import Harmonisation, harmonise, read_map
from solblom_models.tabular.table_file import read_table
from solblom_protocol.contracts.bags import BagContract
from solblom_protocol.contracts.kinds import read_contract
from solblom_protocol.contracts.table import Contract
from solblom_protocol.toml_file import parse


def _contract(data: bytes, folder: Path) -> object:
    file_in(folder, "genes.txt", b"BRCA1\nTP53\n")
    return read_contract(file_in(folder, "contract.toml", data))


@cache
def _contract_seeds() -> tuple[bytes, ...]:
    templates = [
        (files(f"solblom_models.{name}") / "template" / "contract.toml").read_bytes()
        for name in ("phenotype", "slide_mil", "tabular", "tile_classification")
    ]
    return (*templates, tomli_w.dumps(_harmonised_contract()).encode())


def _harmonised_contract() -> dict[str, Any]:
    age, smoker, grade = CONTRACT["variable"]
    age = age | {"accepts": [{"unit": "mo", "factor": 1 / 12, "offset": 0.0}]}
    grade = grade | {"code_system": "ICD-11", "unmapped": "missing"}
    return {**CONTRACT, "variable": [age, smoker, grade]}


def _table(data: bytes, folder: Path) -> object:
    contract = parse(Contract, _harmonised_contract(), source="fuzz")
    table = read_table(
        file_in(folder, "table.csv", data),
        id_column="patient_id",
        contract=contract,
        family_column=None,
    )
    given = Harmonisation({"age": "mo"}, {})
    return read_units(harmonise(table, contract, given), contract)


def _table_seeds() -> tuple[bytes, ...]:
    rows = patient_rows(4, site="fuzz")
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    return ("\n".join(lines).encode(), ("\ufeff" + "\r\n".join(lines)).encode())


def _code_map(data: bytes, folder: Path) -> object:
    return read_map(file_in(folder, "map.csv", data))


def _map_seeds() -> tuple[bytes, ...]:
    return (
        b"from,to\nE10,5A10\nE11,5A11\n",
        b"from,to,system,version\nE10,5A10,ICD-11,2024\n",
    )


def _consent(data: bytes, folder: Path) -> object:
    return read_consent_csv(data)


def _consent_seeds() -> tuple[bytes, ...]:
    return (
        b"patient_id,status,valid_until\np1,granted,2027-01-01\np2,withdrawn,\n",
        b"patient_id,status,valid_until,valid_from,deceased,birth_date\np1,granted,,2020-01-01,,1990-02-03\n",
        b"patient_id,status,valid_until,given_by_guardian,guardian_until_age\np1,granted,,yes,16\n",
    )


def _fhir(data: bytes, folder: Path) -> object:
    read_fhir(data, FhirSettings())
    return read_fhir(data, FhirSettings(frozenset({"research"}), "urn:oid:1.2"))


def _fhir_seeds() -> tuple[bytes, ...]:
    bundle = {
        "resourceType": "Bundle",
        "type": "searchset",
        "total": 1,
        "entry": [
            {
                "fullUrl": "https://x.invalid/Consent/1",
                "search": {"mode": "match"},
                "resource": {
                    "resourceType": "Consent",
                    "id": "1",
                    "status": "active",
                    "scope": {"coding": [{"system": "s", "code": "research"}]},
                    "category": [{"coding": [{"system": "s", "code": "c"}]}],
                    "patient": {"reference": "Patient/p1", "identifier": {"value": "p1"}},
                    "dateTime": "2026-01-01T10:00:00+01:00",
                    "provision": {
                        "type": "permit",
                        "period": {"start": "2026-01-01", "end": "2027-01-01"},
                        "purpose": [{"system": "s", "code": "research"}],
                    },
                },
            },
            {
                "fullUrl": "https://x.invalid/Patient/p1",
                "search": {"mode": "include"},
                "resource": {
                    "resourceType": "Patient",
                    "id": "p1",
                    "birthDate": "1990-01-02",
                    "deceasedBoolean": False,
                    "identifier": [{"system": "urn:oid:1.2", "value": "p1"}],
                    "link": [{"type": "seealso", "other": {"reference": "Patient/p2"}}],
                },
            },
        ],
    }
    return (json.dumps(bundle).encode(),)


def _bag_index(data: bytes, folder: Path) -> object:
    from bag_lab import CONTRACT as BAG_CONTRACT

    contract = parse(BagContract, BAG_CONTRACT, source="fuzz")
    return read_bags(BagIndex(file_in(folder, "index.csv", data)), contract)


def _bag_seeds() -> tuple[bytes, ...]:
    return (
        b"patient_id,file,label\np1,bags/a.h5,1\np2,bags/b.h5,0\n",
        b"patient_id,file,label,scanner\np1,../a.h5,1,s 1\np1,/etc/passwd,1,s 2\n",
    )


def _bag_file(data: bytes, folder: Path) -> object:
    path = file_in(folder, "slide.h5", data)
    reads: tuple[Callable[[], object], ...] = (
        lambda: read_bag(path, dim=6),
        lambda: read_labels(path, "label", tiles=5),
        lambda: tile_count(path),
    )
    for read in reads:
        with contextlib.suppress(BagFileError):
            read()
    return None


@cache
def _bag_file_seeds() -> tuple[bytes, ...]:
    features = np.linspace(0, 1, 30, dtype=np.float32).reshape(5, 6)
    coords = np.zeros((5, 2), dtype=np.int64)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "slide.h5")
        texts = ("label", ["a", "b", "a", "b", "a"])
        write_bag(path, features, coords, recipe="r", side=1.0, facts={}, labels=texts)
        numbers = Path(folder, "numbers.h5")
        with h5py.File(numbers, "w") as file:
            file["features"], file["coords"], file["label"] = features, coords, np.arange(5)
        return (path.read_bytes(), numbers.read_bytes())


def _phenopackets(data: bytes, folder: Path) -> object:
    path = file_in(folder, "cases.jsonl", data)
    rules = CaseRules(labels={"OMIM:1": "OMIM:1"})
    return list(read_cases(path, _ontology(), Reading(), rules=rules))


@cache
def _ontology() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        return small_ontology(Path(folder))


def _packet_seeds() -> tuple[bytes, ...]:
    family = {"id": "f", "proband": packet(), "relatives": [packet()], "metaData": {}}
    lines = [json.dumps(value).encode() for value in (packet(), family)]
    return (*lines, b"\n".join(lines))


SOURCES = (
    Target("contract-toml", _contract, _contract_seeds),
    Target("table-csv", _table, _table_seeds),
    Target("code-map", _code_map, _map_seeds, (ValueError,)),
    Target("consent-csv", _consent, _consent_seeds),
    Target("consent-fhir", _fhir, _fhir_seeds),
    Target("bag-index", _bag_index, _bag_seeds, (BagFileError,)),
    Target("bag-file", _bag_file, _bag_file_seeds),
    Target("phenopackets", _phenopackets, _packet_seeds),
)
