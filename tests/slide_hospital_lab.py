"""A hospital with real slides (small, made-up TIFFs), a real vault, and the real worker that opens them."""

import csv
from pathlib import Path
from typing import Any

import numpy as np

from bag_lab import STUDY
from lab import LabHospital
from slide_lab import tissue_picture, write_tiff
from solblom_client.policy import load_node_config
from solblom_client.slides.bags import MadeBags
from solblom_client.slides.features import make_features
from solblom_models.study_document import resolve
from solblom_models.tile_encoder.encoder import encoder_digest
from solblom_protocol.contracts.bags import BagContract
from solblom_protocol.studies.study import StudyDocument
from solblom_protocol.studies.tables import Study
from solblom_protocol.toml_file import parse

SIDE = 384  # pixels of a made-up slide, at 1 micron each
CONTRACT: dict[str, Any] = {
    "kind": "bags",
    "name": "lab",
    "version": 1,
    "encoder": {
        "kind": "builtin",
        "name": "solblom-texture-1",
        "dim": 80,
        "sha256": encoder_digest(),
        "microns_per_pixel": 1.0,
        "tile_px": 64,
        "licence": "Apache-2.0",
    },
    "slides": {"sharp_only": False},
    "target": {
        "name": "tumour",
        "column": "label",
        "positive": ["1"],
        "negative": ["0"],
        "meaning": {"en": "tumour", "no": "svulst"},
    },
}


def slide_contract(**changes: Any) -> BagContract:
    """Return the lab's contract; `changes` like `encoder={"tile_px": 50}` are merged table by table."""
    tables = {k: dict(v) if isinstance(v, dict) else v for k, v in CONTRACT.items()}
    for name, change in changes.items():
        tables[name] = {**tables.get(name, {}), **change}
    return parse(BagContract, tables, source="lab")


def slide_study(*, contract: BagContract | None = None, **changes: Any) -> StudyDocument:
    """Return a resolved study on slides that trains on nearly everybody: split keys are drawn anew in each test."""
    tables = {name: dict(table) for name, table in STUDY.items()}
    tables["evaluation"] = {"split": {"by": "patient", "test_fraction": 0.001}}
    for name, change in changes.items():
        tables.setdefault(name, {}).update(change)
    return resolve(parse(Study, tables, source="lab"), contract or slide_contract(), None)


def write_slide(path: Path, *, seed: int, microns_per_pixel: float = 1.0) -> Path:
    """Write a small slide with a piece of made-up tissue."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = tissue_picture(SIDE, SIDE, left=60, top=60, right=330, bottom=330, seed=seed)
    return write_tiff(path, picture, microns_per_pixel)


def write_all_white(path: Path) -> Path:
    """Write a slide without tissue."""
    return write_tiff(path, np.full((SIDE, SIDE, 3), 243, dtype=np.uint8), 1.0)


def write_index(
    path: Path,
    rows: list[tuple[str, ...]],
    *,
    columns: tuple[str, ...] = ("patient_id", "file", "label"),
) -> Path:
    """Write an index of slides."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def slide_hospital(
    folder: Path, *, patients: int, task: str = "slide-mil", more: str = ""
) -> LabHospital:
    """Return a hospital whose patients have one small slide each; every second is ill."""
    hospital = LabHospital(folder, policy="min_patients = 2")
    rows: list[tuple[str, ...]] = []
    for number in range(patients):
        write_slide(folder / f"scans/{number}.tiff", seed=number)
        rows.append((f"patient-{number}", f"scans/{number}.tiff", str(number % 2)))
    write_index(folder / "slides.csv", rows)
    file = folder / "node.toml"
    text = file.read_text(encoding="utf-8").replace("tabular-classification", task)
    text = text.replace('connector = "table"', 'connector = "slides"\nfeatures = "features"')
    file.write_text(text.replace("patients.csv", "slides.csv") + more, encoding="utf-8")
    hospital.config = load_node_config(file)
    hospital.restart()
    return hospital


def made(hospital: LabHospital, study: StudyDocument, *, processes: int = 1) -> MadeBags:
    """Make the features of a hospital's slides."""
    return make_features(
        hospital.config, study, processes=processes, progress=lambda done, whole: None
    )
