"""Signed artefacts of models whose weights a test chooses: no federation has to run for two models to be compared."""

import csv
import datetime as dt
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lab import NOW, patient_rows
from solblom_models.artefact import ArtefactContents, RoundRecord, SiteRecord, write_artefact
from solblom_models.flat import flatten, layout_of
from solblom_models.statement import Charge
from solblom_models.task import find_task
from solblom_protocol.keys.key_files import public_pem
from solblom_protocol.messages.message import timestamp
from solblom_protocol.messages.signing import sign_envelope
from solblom_protocol.studies.study import StudyDocument
from solblom_verify.canonical import canonical_json, digest
from solblom_verify.envelope import key_id

COORDINATOR = Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32)
NODE = Ed25519PrivateKey.from_private_bytes(bytes([6]) * 32)
Weigh = Callable[[torch.nn.Module], None]


def write_trust(folder: Path) -> Path:
    """Write a trust file that vouches for this coordinator."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "trust.json"
    public = COORDINATOR.public_key()
    key = {
        "keyid": key_id(public),
        "name": "coordinator",
        "public_key": public_pem(public),
        "role": "coordinator",
    }
    trust = {
        "expires": "2099-12-31T00:00:00Z",
        "keys": [key],
        "schema": "solblom.trust/1",
        "threshold": 1,
        "version": 1,
    }
    path.write_bytes(canonical_json(trust))
    return path


def write_model(
    folder: Path,
    document: StudyDocument,
    *,
    weigh: Weigh | None = None,
    version: int = 1,
    charges: Sequence[Charge] = (),
) -> Path:
    """Write a signed artefact of the study's net; `weigh` sets its weights in place. Its one round has no hospital."""
    task = find_task(document.study.task.name)
    net = task.build(document)
    if weigh is not None:
        with torch.no_grad():
            weigh(net)
    layout = layout_of(net, local=task.local_parameters(document))
    weights = flatten(net, layout)
    only = RoundRecord(
        round=1,
        base=digest(b"before"),
        result=digest(weights),
        opened=timestamp(NOW),
        closed=timestamp(NOW + dt.timedelta(minutes=version)),
        receipts={},
        refusals={},
        missing=["north"],
    )
    public = NODE.public_key()
    contents = ArtefactContents(
        document=document,
        study_envelope=sign_envelope(document.payload(), "application/x-test", [NODE]),
        run=f"lab-{version}",
        simulation=True,
        weights=weights,
        sites={"north": SiteRecord(public_pem(public), key_id(public))},
        rounds=[only],
        charges=list(charges),
    )
    folder.mkdir(parents=True)
    write_artefact(
        folder, contents, version=f"v{version}", evaluation=None, key=COORDINATOR, now=NOW
    )
    return folder


def linear(*weights: float, bias: float = 0.0) -> Weigh:
    """Return what sets the lab's logistic regression."""

    def weigh(net: torch.nn.Module) -> None:
        for name, parameter in net.named_parameters():
            values = [bias] if name.endswith("bias") else list(weights)
            parameter.copy_(torch.tensor(values).reshape(parameter.shape))

    return weigh


def write_patients(path: Path, count: int = 120, *, columns: Sequence[str] = ()) -> Path:
    """Write patients of the lab's contract; of these columns only, where some are named."""
    rows = patient_rows(count, site="new")
    names = list(columns) or list(rows[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path
