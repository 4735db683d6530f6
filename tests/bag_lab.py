"""Made-up patients with slides as HDF5 bags, and a hospital that trains on them."""

import csv
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from lab import NOW, LabHospital
from solblom_client.policy import load_node_config
from solblom_models.study_document import resolve
from solblom_protocol.contracts.bags import BagContract
from solblom_protocol.studies.study import StudyDocument
from solblom_protocol.studies.tables import Study
from solblom_protocol.toml_file import parse

DIM = 6
CONTRACT: dict[str, Any] = {
    "kind": "bags",
    "name": "lab-slides",
    "version": 1,
    "encoder": {
        "name": "made up",
        "dim": DIM,
        "microns_per_pixel": 0.5,
        "tile_px": 256,
        "licence": "none",
    },
    "target": {
        "name": "tumour",
        "column": "label",
        "positive": ["1"],
        "negative": ["0"],
        "meaning": {"en": "tumour", "no": "svulst"},
    },
}
STUDY: dict[str, Any] = {
    "study": {
        "name": "lab-slides",
        "title": "Lab",
        "purpose": "Test",
        "legal_basis": ["none"],
        "duo": [],
        "ends": "2099-12-31",
    },
    "task": {
        "name": "slide-mil",
        "target": "tumour",
        "model": {"kind": "mean"},
        "contract": "contract.toml",
    },
    "training": {
        "rounds": 2,
        "strategy": "fedavg",
        "local_steps": 2,
        "learning_rate": 0.5,
        "expected_batch_size": 20,
        "seed": 1,
    },
    "privacy": {
        "unit": "patient",
        "epsilon": 3.0,
        "delta": 1e-5,
        "clipping_norm": 1.0,
        "noise": "local",
        "sampling_rate": 0.5,
    },
    "cohort": {"min_nodes": 1, "min_patients": 2, "quorum": 1},
    "evaluation": {"split": {"by": "patient", "test_fraction": 0.3}},
}


def contract(**changes: Any) -> BagContract:
    """Return the lab's contract; `changes` like `encoder={"limit": 1.0}` are merged table by table."""
    tables = {k: dict(v) if isinstance(v, dict) else v for k, v in CONTRACT.items()}
    for name, change in changes.items():
        tables[name] = {**tables.get(name, {}), **change}
    return parse(BagContract, tables, source="lab")


def bag_study(*, bags: BagContract | None = None, **changes: Any) -> StudyDocument:
    """Return a resolved study on bags."""
    tables = {name: dict(table) for name, table in STUDY.items()}
    for name, change in changes.items():
        tables.setdefault(name, {}).update(change)
    return resolve(parse(Study, tables, source="lab"), bags or contract(), None)


def write_bag(path: Path, features: NDArray[Any], **more: Any) -> Path:
    """Write one slide as CLAM does; `more` are other data sets."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["features"] = features
        for name, value in more.items():
            file[name] = value
    return path


def write_index(folder: Path, rows: list[tuple[str, str, str]]) -> Path:
    """Write (patient, file, label) of each slide."""
    path = folder / "index.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("patient_id", "file", "label"))
        writer.writerows(rows)
    return path


def write_patients(folder: Path, count: int, *, seed: int = 1, most_tiles: int = 9) -> Path:
    """Write patients with one to three slides each; the ill have tiles with a higher first feature."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        label = int(rng.random() < 0.5)
        for slide in range(int(rng.integers(1, 4))):
            features = rng.normal(size=(int(rng.integers(1, most_tiles + 1)), DIM))
            features[:, 0] += label
            name = f"bags/p{number}-{slide}.h5"
            write_bag(folder / name, features.astype(np.float32))
            rows.append((f"p{number}", name, str(label)))
    return write_index(folder, rows)


def bag_hospital(folder: Path, *, patients: int = 40, **options: Any) -> LabHospital:
    """Return a hospital with bags in place of its table."""
    hospital = LabHospital(folder, **options)
    write_patients(folder, patients)
    file = folder / "node.toml"
    text = file.read_text(encoding="utf-8").replace("tabular-classification", "slide-mil")
    text = text.replace('connector = "table"', 'connector = "bags"')
    file.write_text(text.replace("patients.csv", "index.csv"), encoding="utf-8")
    hospital.config = load_node_config(file)
    hospital.restart()
    return hospital


def moved(model: torch.nn.Module) -> torch.nn.Module:
    """Give every parameter a value, so that no gradient is zero because the net has just begun."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


__all__ = ["NOW", "bag_hospital", "bag_study", "contract", "write_bag", "write_index"]
