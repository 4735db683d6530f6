"""What finished runs of each task leave, made by hand: real receipts with real signatures, and weights that have moved.

No hospital trains here: what an artefact holds follows from its contents, whoever made them.
"""

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bag_lab import DIM, bag_study
from bag_lab import contract as bag_contract
from lab import NOW, study_document
from solblom_models.artefact import ArtefactContents, RoundRecord, SiteRecord, write_artefact
from solblom_models.flat import flatten, layout_of
from solblom_models.statement import Charge
from solblom_models.task import find_task
from solblom_protocol.keys.key_files import public_pem
from solblom_protocol.messages.message import timestamp
from solblom_protocol.messages.result import RECEIPT_PAYLOAD_TYPE, Receipt
from solblom_protocol.messages.signing import sign_envelope
from solblom_protocol.studies.study import StudyDocument, sign_study
from solblom_verify.canonical import digest
from solblom_verify.envelope import key_id
from solblom_verify.trust import Trust, TrustedKey

COORDINATOR = Ed25519PrivateKey.from_private_bytes(bytes([9]) * 32)
RESEARCHER = Ed25519PrivateKey.from_private_bytes(bytes([8]) * 32)
SITES = ("north", "south")
TRUST = Trust(
    version=1,
    expires=dt.datetime(2036, 12, 31, tzinfo=dt.UTC),
    threshold=1,
    keys=(
        TrustedKey(key_id(COORDINATOR.public_key()), "x", "coordinator", COORDINATOR.public_key()),
    ),
)


def table_study(**changes: Any) -> StudyDocument:
    return study_document(**changes)


def cnn_study() -> StudyDocument:
    pixels = {"kind": "pixels", "tile_px": 50, "dim": 7500, "center": 128.0, "scale": 64.0}
    return bag_study(
        bags=bag_contract(encoder=pixels),
        task={"name": "tile-classification", "model": {"kind": "cnn", "channels": [8, 12]}},
    )


def contrast_study(**model: Any) -> StudyDocument:
    encoder = {"kind": "builtin", "sha256": "0" * 64, "surroundings": True, "dim": DIM}
    return bag_study(
        bags=bag_contract(encoder=encoder),
        task={"name": "tile-classification", "model": {"kind": "contrast"} | model},
    )


def tile_study(**model: Any) -> StudyDocument:
    return bag_study(task={"name": "tile-classification", "model": model})


STUDIES: dict[str, Callable[[], StudyDocument]] = {
    "logistic": table_study,
    "table-mlp": lambda: table_study(task={"model": {"kind": "mlp", "hidden": [8, 4]}}),
    "mean": bag_study,
    "gated-attention": lambda: bag_study(task={"model": {"kind": "gated-attention", "hidden": 5}}),
    "tile-linear": lambda: tile_study(kind="linear"),
    "tile-mlp": lambda: tile_study(kind="mlp", hidden=[7]),
    "contrast": contrast_study,
    "contrast-heads": lambda: contrast_study(kind="contrast-heads", balanced=True),
    "cnn": cnn_study,
}
"""One study for each kind of net, rankers apart: those need an HPO release (`ranking_lab`)."""


def moved_net(document: StudyDocument, *, seed: int = 3) -> torch.nn.Module:
    """Return the study's net with weights that are no longer those of its start."""
    net = find_task(document.study.task.name).build(document)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return net.eval()


def contents_of(document: StudyDocument, *, run: str = "lab-1", **changes: Any) -> ArtefactContents:
    """Return what a run of one round over two hospitals leaves."""
    task = find_task(document.study.task.name)
    local = task.local_parameters(document)
    initial = task.build(document)
    base = flatten(initial, layout_of(initial, local=local))
    net = moved_net(document)
    weights = flatten(net, layout_of(net, local=local))
    keys = {
        site: Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32)
        for n, site in enumerate(SITES, start=1)
    }
    record = RoundRecord(
        round=1,
        base=digest(base),
        result=digest(weights),
        opened=timestamp(NOW),
        closed=timestamp(NOW + dt.timedelta(minutes=5)),
        receipts={site: _receipt(document, run, site, key, base) for site, key in keys.items()},
        refusals={},
        missing=[],
    )
    values: dict[str, Any] = {
        "document": document,
        "study_envelope": sign_study(document, RESEARCHER),
        "run": run,
        "simulation": False,
        "weights": weights,
        "sites": {
            site: SiteRecord(public_pem(key.public_key()), key_id(key.public_key()))
            for site, key in keys.items()
        },
        "rounds": [record],
        "charges": [Charge(1, site, document.round_event) for site in SITES],
    }
    return ArtefactContents(**(values | changes))


def write(
    folder: Path, contents: ArtefactContents, *, version: str = "v1", now: dt.datetime = NOW
) -> str:
    """Write an artefact into a new folder, signed by the laboratory's coordinator."""
    folder.mkdir(parents=True)
    return write_artefact(
        folder, contents, version=version, evaluation=None, key=COORDINATOR, now=now
    )


def _receipt(
    document: StudyDocument, run: str, site: str, key: Ed25519PrivateKey, base: bytes
) -> tuple[bytes, Receipt]:
    def named(what: str) -> str:
        return digest(f"{what} of {site}".encode())

    receipt = Receipt(
        schema="solblom.receipt/1",
        kind="train",
        site=site,
        node=key_id(key.public_key()),
        study=document.digest,
        run=run,
        round=1,
        base_model=digest(base),
        order=named("order"),
        work=named("work"),
        update=named("update"),
        event=document.round_event.to_json(),
        noise_commitment=named("noise"),
        cohort=named("cohort"),
        consent=named("consent"),
        patients="50-99" if site == "north" else "100-199",
        code=named("code"),
        fixed_point_bits=24,
        outside_epsilon=[],
        simulation=False,
    )
    return sign_envelope(receipt.payload(), RECEIPT_PAYLOAD_TYPE, [key]), receipt
