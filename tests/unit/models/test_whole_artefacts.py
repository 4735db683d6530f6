"""An artefact of each task holds every file, loads as the net it was made of, and has the same bytes in any process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load as load_tensors

from artefact_lab import SITES, STUDIES, TRUST, contents_of, moved_net, write
from lab import NOW, study_document
from ranking_lab import ranking_contract, ranking_document, write_release
from solblom_models.artefact import load
from solblom_models.artefact_files.onnx_export import TOLERANCE, largest_difference, run_onnx
from solblom_models.artefact_files.vectors import interface_of, run_torch, vectors_of
from solblom_models.task import find_task
from solblom_protocol.studies.study import StudyDocument
from solblom_verify.artefact import verify_artefact
from solblom_verify.canonical import canonical_json, parse_canonical

ROOT = Path(__file__).parents[3]
TASKS = {
    "tabular-classification": STUDIES["logistic"],
    "tile-classification": STUDIES["contrast"],
    "slide-mil": STUDIES["gated-attention"],
}
ALL = [*TASKS, "phenotype-ranking"]
LAYOUT = {
    "README.md",
    "attestations/model.dsse.json",
    "code/environment.json",
    "code/lock.txt",
    "code/sbom.cdx.json",
    "consent/summary.json",
    "evaluation/report.json",
    "evaluation/vectors.safetensors",
    "manifest.json",
    "model/architecture.json",
    "model/equivalence.json",
    "model/model.onnx",
    "model/preprocess.json",
    "model/weights.safetensors",
    "permits/index.json",
    "privacy/events.json",
    "privacy/statement.json",
    "ro-crate-metadata.json",
    "training/rounds.jsonl",
    "training/study.dsse.json",
    "training/study.json",
    "training/study.toml",
}
"""Every file of the layout in docs/reference/artefact.md, the log and what is kept for replay apart."""
RECEIPTS = {f"training/receipts/001-{site}.dsse.json" for site in SITES}


@pytest.fixture
def study(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> StudyDocument:
    if request.param in TASKS:
        return TASKS[request.param]()
    release = write_release(tmp_path / "hpo", monkeypatch)
    return ranking_document(ranking_contract(release))


@pytest.fixture
def folder(study: StudyDocument, tmp_path: Path) -> Path:
    write(tmp_path / "lab-v1", contents_of(study))
    return tmp_path / "lab-v1"


@pytest.mark.parametrize("study", ALL, indirect=True)
def test_it_holds_every_file_of_the_layout(folder: Path) -> None:
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert files == LAYOUT | RECEIPTS


@pytest.mark.parametrize("study", ALL, indirect=True)
def test_it_verifies(folder: Path) -> None:
    checks = verify_artefact(folder, TRUST, now=NOW).checks
    assert [(check.name, check.reason) for check in checks if not check.ok] == []


@pytest.mark.parametrize("study", ALL, indirect=True)
def test_its_json_is_canonical(folder: Path) -> None:
    for path in folder.rglob("*.json"):
        data = path.read_bytes()
        assert canonical_json(parse_canonical(data)) == data, path


@pytest.mark.parametrize("study", ALL, indirect=True)
def test_it_loads_as_the_net_it_was_made_of(study: StudyDocument, folder: Path) -> None:
    made, loaded = moved_net(study), load(folder).net
    interface = interface_of(made)
    for values in vectors_of(made, study).inputs:
        said, again = (run_torch(net, interface, values) for net in (made, loaded))
        assert all(np.array_equal(said[name], again[name]) for name in interface.outputs)


@pytest.mark.parametrize("study", ALL, indirect=True)
def test_its_vectors_hold_for_the_loaded_net_and_for_onnx(folder: Path) -> None:
    """What somebody does who has the folder and nothing else."""
    tensors = load_tensors((folder / "evaluation/vectors.safetensors").read_bytes())
    net, model = load(folder).net, (folder / "model/model.onnx").read_bytes()
    interface = interface_of(net)
    prefixes = sorted({name[:3] for name in tensors}) if interface.bags else [""]
    assert len(prefixes) in (1, 4)
    for prefix in prefixes:
        values = tensors[f"{prefix}{interface.source}"]
        expected = {name: tensors[f"{prefix}{name}"] for name in interface.outputs}
        assert largest_difference([run_torch(net, interface, values)], [expected]) <= TOLERANCE
        assert largest_difference([run_onnx(model, interface.source, values)], [expected]) <= 1e-5


@pytest.mark.parametrize("study", ALL, indirect=True)
def test_what_differs_between_executions_is_not_in_the_manifest(
    study: StudyDocument, folder: Path, tmp_path: Path
) -> None:
    listed = set(json.loads((folder / "manifest.json").read_bytes())["files"])
    beside = {
        "README.md",
        "attestations/model.dsse.json",
        "consent/summary.json",
        "manifest.json",
        "model/equivalence.json",
        "permits/index.json",
        "ro-crate-metadata.json",
        "training/rounds.jsonl",
    }
    assert listed == LAYOUT - beside


def test_a_hospitals_own_intercept_is_named_and_stays_at_its_start(tmp_path: Path) -> None:
    study = study_document(task={"model": {"kind": "logistic", "local_intercept": True}})
    assert find_task("tabular-classification").local_parameters(study) == {"linear.bias"}
    write(tmp_path / "lab-v1", contents_of(study))
    tensors = load_tensors((tmp_path / "lab-v1/evaluation/vectors.safetensors").read_bytes())
    net = load(tmp_path / "lab-v1").net
    said = run_torch(net, interface_of(net), tensors["features"])
    assert largest_difference([said], [{"logits": tensors["logits"]}]) <= TOLERANCE
    assert dict(net.named_parameters())["linear.bias"].tolist() == [0.0]


SCRIPT = """
import hashlib, json, sys
from pathlib import Path
from artefact_lab import STUDIES, contents_of, write
found = {}
for kind in ("logistic", "table-mlp", "gated-attention", "cnn"):
    folder = Path(sys.argv[1]) / kind
    write(folder, contents_of(STUDIES[kind]()))
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = f"{kind}/{path.relative_to(folder)}"
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
print(json.dumps(found))
"""


def test_two_processes_with_other_hash_seeds_and_threads_write_the_same_bytes(
    tmp_path: Path,
) -> None:
    """Every file, the crate and the envelope too, since the clock and the keys are the same."""
    running = []
    for seed in ("1", "2"):
        environment = os.environ | {
            "PYTHONHASHSEED": seed,
            "OMP_NUM_THREADS": seed,
            "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), *sys.path]),
        }
        running.append(
            subprocess.Popen(
                [sys.executable, "-c", SCRIPT, str(tmp_path / seed)],
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    found = [json.loads(process.communicate(timeout=300)[0]) for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert found[0] == found[1]
    assert len(found[0]) == 4 * len(LAYOUT | RECEIPTS)


def test_torch_is_asked_on_one_thread_whatever_is_set() -> None:
    study = STUDIES["table-mlp"]()
    net, before = moved_net(study), torch.get_num_threads()
    first = vectors_of(net, study).tensors()
    torch.set_num_threads(2)
    try:
        second = vectors_of(net, study).tensors()
    finally:
        torch.set_num_threads(before)
    assert all(np.array_equal(first[name], second[name]) for name in first)
