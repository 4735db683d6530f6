"""What an artefact carries of the coordinator's log: a cosigned head, and the proof that its entries stand below it.

    log/checkpoint.txt   C2SP signed note: the coordinator's signature, then the hospitals' cosignatures by name
    log/inclusion.json   every `model` and `status` entry of the artefact up to that head, each with its proof

Neither is among the files that the attestation signs: they vouch for the others, and are written anew when another
hospital has cosigned or a steward has decided something.
"""

import base64
import contextlib
import datetime as dt
import fcntl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from solblom_protocol.durable_file import PUBLIC, write_whole
from solblom_protocol.errors import IntegrityError
from solblom_protocol.logs.cosignature import join_cosignatures, read_cosignature
from solblom_protocol.messages.message import timestamp
from solblom_server.coordinator import Coordinator
from solblom_server.log.entries import model_registered
from solblom_server.log.transparency_log import FOLDER, TransparencyLog
from solblom_verify.canonical import canonical_json, file_digest, parse_canonical
from solblom_verify.envelope import public_key_from_pem

ATTESTATION = Path("attestations") / "model.dsse.json"
CHECKPOINT, INCLUSION = Path("log") / "checkpoint.txt", Path("log") / "inclusion.json"
INCLUSION_SCHEMA = "solblom.inclusion/1"
LOCK_FILE = "decisions.lock"


@contextlib.contextmanager
def log_in_turn(coordinator: Coordinator) -> Iterator[TransparencyLog]:
    """Open the log once nobody else decides about a model or renews its log/: what is read holds until the end."""
    path = coordinator.home / FOLDER / LOCK_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock, contextlib.closing(coordinator.log()) as log:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield log


def register_model(folder: Path, log: TransparencyLog, *, now: dt.datetime) -> str:
    """Log an artefact as its attestation now stands, and return its digest; the same again changes nothing.

    Raises:
        IntegrityError: SB-401, its manifest cannot be read; SB-410.
    """
    artefact, manifest = file_digest(folder / "manifest.json")[0], _manifest(folder)
    entry = model_registered(
        artefact=artefact,
        name=str(manifest["name"]),
        version=str(manifest["version"]),
        run=str(manifest["training"]["run"]),
        envelope=(folder / ATTESTATION).read_bytes(),
        time=timestamp(now),
    )
    log.append(entry)
    return artefact


def write_log_files(folder: Path, log: TransparencyLog, artefact: str) -> list[str]:
    """Write log/ into an artefact's folder; return the hospitals whose cosignature is missing, by name.

    The head is the one over all of the artefact's entries that most of its hospitals cosigned; of several the
    newest; where nobody cosigned, the log's newest.

    Raises:
        IntegrityError: SB-401, its manifest cannot be read; SB-410; SB-405, a kept cosignature does not hold.
    """
    entries, sites = log.about(artefact), _sites(folder)
    if not entries:
        raise IntegrityError("SB-410", f"The log has no entry of {artefact}")
    size = _best_size(log, max(entries) + 1, sites)
    note = log.note(size)
    lines = {name: line for name, line in log.lines(size).items() if name in sites}
    for name, line in lines.items():
        read_cosignature(note, line, name, sites[name])
    proofs = [
        {
            "index": index,
            "entry": parse_canonical(entry.encode()),
            "proof": [base64.b64encode(part).decode() for part in log.inclusion(index, size)],
        }
        for index, entry in entries.items()
    ]
    inclusion: Any = {
        "schema": INCLUSION_SCHEMA,
        "origin": log.origin,
        "size": size,
        "entries": proofs,
    }
    write_whole(folder / INCLUSION, canonical_json(inclusion), mode=PUBLIC)
    cosigned = join_cosignatures(note, lines.values()).encode()
    write_whole(folder / CHECKPOINT, cosigned, mode=PUBLIC)
    return sorted(set(sites) - set(lines))


def _best_size(log: TransparencyLog, least: int, sites: Mapping[str, Ed25519PublicKey]) -> int:
    sizes = [size for size in log.cosigned_sizes() if size >= least]
    found = [(len(sites.keys() & log.cosigners(size).keys()), size) for size in sizes]
    count, size = max(found, default=(0, 0))
    return size if count else log.size()


def _manifest(folder: Path) -> dict[str, Any]:
    """Return a manifest that this coordinator wrote.

    Raises:
        IntegrityError: SB-401.
    """
    try:
        value = parse_canonical((folder / "manifest.json").read_bytes())
    except (OSError, ValueError):
        raise IntegrityError("SB-401", f"{folder.name}: the manifest cannot be read") from None
    if not isinstance(value, dict):
        raise IntegrityError("SB-401", f"{folder.name}: the manifest is no object")
    return value


def _sites(folder: Path) -> dict[str, Ed25519PublicKey]:
    """Return the keys of an artefact's hospitals by name; only these may stand in its checkpoint.

    Raises:
        IntegrityError: SB-401.
    """
    manifest = _manifest(folder)
    try:
        sites = manifest["sites"].items()
        return {site: public_key_from_pem(entry["node_key"]) for site, entry in sites}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise IntegrityError(
            "SB-401", f"{folder.name}: the manifest names no hospitals' keys"
        ) from None
