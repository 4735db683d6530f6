"""What `solblom node check` finds at a laboratory hospital, and how to spoil its data and settings."""

from typing import Any

from lab import LabHospital, study_document
from solblom_client.checks.finding import Finding
from solblom_client.checks.node_check import check_node
from solblom_client.checks.preflight import preflight
from solblom_client.keys import read_node_keys
from solblom_client.policy import load_node_config
from solblom_protocol.studies.study import StudyDocument

Rows = list[dict[str, str]]


def node_lights(hospital: LabHospital) -> dict[str, Finding]:
    return {f.name: f for f in check_node(hospital.config, now=hospital.clock())}


def lights(hospital: LabHospital, document: StudyDocument | None = None) -> dict[str, Finding]:
    keys = read_node_keys(hospital.config.state)
    signed = hospital.sign(document or study_document())
    found = preflight(hospital.config, keys, signed, now=hospital.clock())
    return {finding.name: finding for finding in found.findings}


def edit(hospital: LabHospital, old: str, new: str) -> None:
    file = hospital.folder / "node.toml"
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")
    hospital.config = load_node_config(file)


def changed(hospital: LabHospital, **cells: Any) -> Rows:
    """Return the hospital's rows, each with these columns; a function gets the row and its number."""
    return [
        row | {name: make(row, n) if callable(make) else make for name, make in cells.items()}
        for n, row in enumerate(hospital.rows)
    ]
