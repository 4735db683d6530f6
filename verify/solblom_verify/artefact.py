"""The checks on a model artefact: a folder, a trust file and the time in, a verdict out.

Whatever a check reads goes through `_Artefact`, which reads a file only if its bytes have the
digest in the signed statement. So nothing unsigned is interpreted, in whatever order checks run.

Source of the statement: in-toto Statement v1
(https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import islice
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from solblom_verify.canonical import digest, file_digest, parse_canonical, read_file
from solblom_verify.envelope import OpenedEnvelope, key_id, open_envelope, public_key_from_pem
from solblom_verify.shape import JsonObject
from solblom_verify.trust import Trust
from solblom_verify.wording import counted

__all__ = [
    "ATTESTATION",
    "MANIFEST_SCHEMA",
    "PREDICATE_TYPE",
    "RECEIPT_PAYLOAD_TYPE",
    "RECEIPT_SCHEMA",
    "STATEMENT_PAYLOAD_TYPE",
    "STATEMENT_TYPE",
    "Check",
    "Verdict",
    "verify_artefact",
]

MANIFEST_SCHEMA = "solblom.artefact/1"
RECEIPT_SCHEMA = "solblom.receipt/1"
RECEIPT_PAYLOAD_TYPE = "application/vnd.solblom.receipt+json"
STATEMENT_PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:solblom:attestation:model:1"

ATTESTATION = "attestations/model.dsse.json"
_MANIFEST = "manifest.json"
_WEIGHTS = "model/weights.safetensors"
_ROUNDS = "training/rounds.jsonl"
_RECEIPTS = "training/receipts/"

# fmt: off
_MANIFEST_REQUIRED = frozenset({
    "schema", "name", "version", "task", "simulation", "files",
    "model", "sites", "training", "privacy", "environment",
})
_MANIFEST_OPTIONAL = frozenset({
    "title", "purpose", "legal_basis", "evaluation", "limitations", "intended_use",
    "not_for", "supersedes", "software",
})
# fmt: on
_VERSION = re.compile(r"v[1-9][0-9]*")
_FILE_NAME = re.compile(r"[ -\[\]-~]+")  # printable ASCII without backslash
_NUMBER = r"[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?"
_EPSILON = re.compile(rf"{_NUMBER}|inf|off")
_DELTA = re.compile(rf"{_NUMBER}|off")
_MAX_ENTRIES = 100_000  # files and folders
_MAX_REASON = 500  # characters; a hostile file must not fill the terminal

_NEVER_CHECKED = (
    "Epsilon and delta: taken from the manifest, not recomputed from privacy/events.json.",
    "The rounds: the weights were not aggregated again from the hospitals' updates (replay).",
    "The final model: how it was made from the last rounds is claimed, not derived again.",
    "The hospitals' reports: a receipt proves who said something, not that it is true.",
    "The patients: that their data were as described cannot be seen from here.",
    "Withdrawal: no fresh log checkpoint was read; the model may have been withdrawn since.",
    "Times: when the model was made and signed is the coordinator's claim.",
    "Other files (study, permits, consent, evaluation, model card): signed, but not interpreted.",
)
_SIMULATED = "Hospitals: this is a simulation; one machine made all the keys and receipts."
_EXPIRED = "Trust: the trust file has expired; a key in it may have been replaced since."


@dataclass(frozen=True)
class Check:
    """One thing that was checked; the reason says why not, or what is worth knowing."""

    name: str
    ok: bool
    reason: str


@dataclass(frozen=True)
class Verdict:
    """What is known about an artefact; its names are given only when their check passed."""

    ok: bool
    checks: tuple[Check, ...]
    not_checked: tuple[str, ...]
    artefact: str | None  # digest of manifest.json
    name: str | None
    version: str | None
    signers: tuple[str, ...]  # key ids


class _CheckError(ValueError):
    """A check says no, for the reason given."""


def verify_artefact(folder: Path, trust: Trust, *, now: datetime) -> Verdict:
    """Check every byte of an artefact folder against its signatures and itself.

    Bad input never raises: it is a check that failed. A check that needs a failed one is failed
    too, with a reason that starts with "not reached".

    Args:
        folder: the artefact.
        trust: the keys whose signatures count.
        now: the time, with its zone, at which the trust file must not have expired.
    """
    artefact = _Artefact(folder, trust, now)
    results: dict[str, Check] = {}
    for name, needs, check in _CHECKS:
        if needs is None or results[needs].ok:
            results[name] = _run(name, check, artefact)
        else:
            results[name] = Check(name, False, f"not reached: it needs the check '{needs}'")
    manifest = artefact.manifest if results["manifest"].ok else None
    not_checked = list(_NEVER_CHECKED)
    if manifest is not None and manifest.get("simulation", bool):
        not_checked.append(_SIMULATED)
    if results["trust"].ok and results["trust"].reason:
        not_checked.append(_EXPIRED)
    return Verdict(
        ok=all(result.ok for result in results.values()),
        checks=tuple(results.values()),
        not_checked=tuple(not_checked),
        artefact=artefact.subjects[_MANIFEST] if manifest else None,
        name=manifest.text("name") if manifest else None,
        version=manifest.text("version") if manifest else None,
        signers=artefact.envelope.signers if results["envelope"].ok else (),
    )


def _run(name: str, check: Callable[[_Artefact], str], artefact: _Artefact) -> Check:
    try:
        return Check(name, True, check(artefact))
    except (ValueError, OSError) as error:  # each part's own error is a ValueError
        return Check(name, False, str(error)[:_MAX_REASON])
    except Exception as error:  # Fail closed: what was not foreseen is a check that failed.
        return Check(name, False, f"could not be checked ({type(error).__name__})")


class _Artefact:
    """An artefact folder, read on demand; each property raises what is wrong with it."""

    def __init__(self, folder: Path, trust: Trust, now: datetime) -> None:
        self.folder = folder
        self.trust = trust
        self.now = now

    @cached_property
    def files(self) -> frozenset[str]:
        """The paths of all files: regular ones with plain names, in folders that hold some."""
        if not stat.S_ISDIR(self.folder.lstat().st_mode):
            raise _CheckError("the artefact is a symbolic link; name the folder itself")
        entries = frozenset(islice(_walk(self.folder), _MAX_ENTRIES + 1))
        if len(entries) > _MAX_ENTRIES:
            raise _CheckError(f"more than {_MAX_ENTRIES} files and folders")
        return frozenset(path for path in entries if not path.endswith("/"))

    @cached_property
    def envelope(self) -> OpenedEnvelope:
        """The statement's envelope, all of its signatures verified."""
        return open_envelope(
            read_file(self.folder / ATTESTATION),
            payload_type=STATEMENT_PAYLOAD_TYPE,
            keys=self.trust.public_keys,
            threshold=self.trust.threshold,
        )

    @cached_property
    def statement(self) -> JsonObject:
        """The in-toto statement."""
        value = parse_canonical(self.envelope.payload)
        return JsonObject.of(value, "statement").only(
            {"_type", "subject", "predicateType", "predicate"}
        )

    @cached_property
    def predicate(self) -> JsonObject:
        """What the signers say about the model."""
        return self.statement.object("predicate").only(
            {"artefact", "name", "version", "created", "run", "simulation"}
        )

    @cached_property
    def subjects(self) -> Mapping[str, str]:
        """The signed files: path to digest."""
        subjects: dict[str, str] = {}
        previous = ""
        for subject in self.statement.objects("subject"):
            name = subject.only({"name", "digest"}).text("name")
            if name <= previous:
                raise _CheckError("subjects are not in order of name, each once")
            hexadecimal = subject.object("digest").only({"sha256"}).sha256("sha256")
            subjects[name] = f"sha256:{hexadecimal}"
            previous = name
        return subjects

    @cached_property
    def manifest(self) -> JsonObject:
        """The manifest."""
        manifest = JsonObject.of(parse_canonical(self.read(_MANIFEST)), "manifest")
        return manifest.only(_MANIFEST_REQUIRED, optional=_MANIFEST_OPTIONAL)

    @cached_property
    def rounds(self) -> tuple[JsonObject, ...]:
        """The lines of training/rounds.jsonl."""
        lines = self.read(_ROUNDS).split(b"\n")
        if len(lines) < 2 or lines.pop() != b"":
            raise _CheckError(f"{_ROUNDS} does not hold lines that each end with LF")
        return tuple(
            JsonObject.of(parse_canonical(line), f"{_ROUNDS} line {number}")
            for number, line in enumerate(lines, start=1)
        )

    def read(self, path: str) -> bytes:
        """Read a signed file whole, if its bytes are the signed ones."""
        if path not in self.subjects:
            raise _CheckError(f"not a signed file: {path}")
        data = read_file(self.folder / path)
        if digest(data) != self.subjects[path]:
            raise _CheckError(f"changed file: {path}")
        return data


def _walk(folder: Path, prefix: str = "") -> Iterator[str]:
    is_empty = True
    with os.scandir(folder) as entries:
        for entry in entries:
            is_empty = False
            path = f"{prefix}{entry.name}"
            if not _FILE_NAME.fullmatch(entry.name):
                raise _CheckError(f"a name is not printable ASCII, or has a backslash: {path!a}")
            if entry.is_dir(follow_symlinks=False):
                yield f"{path}/"
                yield from _walk(Path(entry.path), f"{path}/")
            elif entry.is_file(follow_symlinks=False):
                yield path
            else:
                what = "symbolic link" if entry.is_symlink() else "neither file nor folder"
                raise _CheckError(f"{what}: {path}")
    if is_empty:
        raise _CheckError(f"empty folder: {prefix or '.'}")


def _check_folder(artefact: _Artefact) -> str:
    return counted(len(artefact.files), "file")


def _check_envelope(artefact: _Artefact) -> str:
    signers = artefact.envelope.signers
    names = (f"{key.name} ({key.role})" for key in artefact.trust.keys if key.keyid in signers)
    return f"signed by {', '.join(names)}"


def _check_statement(artefact: _Artefact) -> str:
    statement, predicate = artefact.statement, artefact.predicate
    _same("statement._type", statement.text("_type"), STATEMENT_TYPE)
    _same("statement.predicateType", statement.text("predicateType"), PREDICATE_TYPE)
    predicate.digest("artefact")
    predicate.text("name")
    predicate.text("version", like=_VERSION)
    predicate.time("created")
    predicate.text("run")
    predicate.get("simulation", bool)
    return counted(len(artefact.subjects), "signed file")


def _check_files(artefact: _Artefact) -> str:
    present = artefact.files - {ATTESTATION}
    _refuse("extra file", present - artefact.subjects.keys())
    _refuse("missing file", artefact.subjects.keys() - present)
    changed = (p for p in present if file_digest(artefact.folder / p)[0] != artefact.subjects[p])
    _refuse("changed file", list(changed))
    return ""


def _refuse(what: str, paths: Collection[str]) -> None:
    if paths:
        more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
        raise _CheckError(f"{what}: {', '.join(sorted(paths)[:3])}{more}")


def _check_manifest(artefact: _Artefact) -> str:
    manifest, predicate = artefact.manifest, artefact.predicate
    _same("manifest.schema", manifest.text("schema"), MANIFEST_SCHEMA)
    _same("digest of manifest.json", artefact.subjects[_MANIFEST], predicate.digest("artefact"))
    manifest.text("task")
    _same("name", manifest.text("name"), predicate.text("name"))
    _same("version", manifest.text("version", like=_VERSION), predicate.text("version"))
    _same("simulation", manifest.get("simulation", bool), predicate.get("simulation", bool))
    _same("run", manifest.object("training").text("run"), predicate.text("run"))
    manifest.object("environment")
    return ""


def _same(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise _CheckError(f"{what}: found {found!a}, expected {expected!a}")


def _check_manifest_files(artefact: _Artefact) -> str:
    for path, entry in artefact.manifest.object("files").items():
        entry.only({"bytes", "sha256"})
        if path not in artefact.subjects:
            raise _CheckError(f"manifest.files names {path!a}, which is not a signed file")
        _same(f"digest of {path}", f"sha256:{entry.sha256('sha256')}", artefact.subjects[path])
        size = (artefact.folder / path).lstat().st_size
        _same(f"bytes of {path}", entry.get("bytes", int), size)
    return ""


def _check_model(artefact: _Artefact) -> str:
    if _WEIGHTS not in artefact.subjects:
        raise _CheckError(f"missing file: {_WEIGHTS}")
    stated = artefact.manifest.object("model").digest("weights")
    _same("digest of the weights", stated, artefact.subjects[_WEIGHTS])
    return ""


def _check_receipts(artefact: _Artefact) -> str:
    keys = _site_keys(artefact)
    receipts: set[str] = set()
    for entry in artefact.rounds:
        for site, result in entry.object("results").items():
            if site not in keys:
                raise _CheckError(f"{entry.where} names {site!a}, which manifest.sites does not")
            path = f"{_RECEIPTS}{entry.get('round', int):03d}-{site}.dsse.json"
            data = artefact.read(path)
            _same(f"digest of {path}", digest(data), result.digest("receipt"))
            try:
                _check_receipt(artefact, data, entry, site, keys[site])
            except ValueError as error:
                raise _CheckError(f"{path}: {error}") from error
            receipts.add(path)
    stored = {path for path in artefact.subjects if path.startswith(_RECEIPTS)}
    _refuse("receipt of no round", stored - receipts)
    return counted(len(receipts), "receipt")


def _site_keys(artefact: _Artefact) -> Mapping[str, Ed25519PublicKey]:
    keys = {}
    for site, entry in artefact.manifest.object("sites").items():
        keys[site] = public_key_from_pem(entry.text("node_key"))
        _same(f"key id of {site}", entry.sha256("keyid"), key_id(keys[site]))
    if len({key_id(key) for key in keys.values()}) != len(keys):
        raise _CheckError("two sites share one key")
    return keys


def _check_receipt(
    artefact: _Artefact, data: bytes, entry: JsonObject, site: str, key: Ed25519PublicKey
) -> None:
    opened = open_envelope(data, payload_type=RECEIPT_PAYLOAD_TYPE, keys={key_id(key): key})
    receipt = JsonObject.of(parse_canonical(opened.payload), "receipt")
    result = entry.object("results").object(site)
    training = artefact.manifest.object("training")
    _same("schema", receipt.text("schema"), RECEIPT_SCHEMA)
    _same("site", receipt.text("site"), site)
    _same("run", receipt.text("run"), training.text("run"))
    _same("study", receipt.digest("study"), training.digest("study"))
    _same("round", receipt.get("round", int), entry.get("round", int))
    _same("base model", receipt.digest("base_model"), entry.digest("base"))
    _same("update", receipt.digest("update"), result.digest("update"))
    _same("work", receipt.digest("work"), result.digest("work"))
    receipt.digest("order")


def _check_rounds(artefact: _Artefact) -> str:
    rounds = artefact.rounds
    stated = artefact.manifest.object("training").objects("rounds")
    _same("number of rounds", len(rounds), len(stated))
    previous = rounds[0].digest("base")
    for number, (entry, claim) in enumerate(zip(rounds, stated, strict=True), start=1):
        _same("round number", entry.get("round", int), number)
        _same(f"base of round {number}", entry.digest("base"), previous)
        _same("round number in the manifest", claim.get("round", int), number)
        for key in ("base", "result"):
            _same(f"{key} of round {number}", entry.digest(key), claim.digest(key))
        results = entry.object("results").items()
        updates = {site: result.digest("update") for site, result in results}
        _same(f"updates of round {number}", updates, dict(claim.object("updates").members))
        previous = entry.digest("result")
    return counted(len(rounds), "round")


def _check_privacy(artefact: _Artefact) -> str:
    stated = artefact.manifest.object("privacy").object("sites")
    sites = {site for entry in artefact.rounds for site in entry.object("results").members}
    unbounded = []
    for site in sorted(sites):
        stated.object(site).text("delta", like=_DELTA)
        if stated.object(site).text("epsilon", like=_EPSILON) in {"inf", "off"}:
            unbounded.append(site)
    return f"no differential privacy at: {', '.join(unbounded)}" if unbounded else ""


def _check_trust(artefact: _Artefact) -> str:
    expires = artefact.trust.expires
    return f"the trust file expired on {expires:%Y-%m-%d}" if expires <= artefact.now else ""


# Name, the check it needs, the function: raises what is wrong, or gives a note ("" for none).
_CHECKS: tuple[tuple[str, str | None, Callable[[_Artefact], str]], ...] = (
    ("folder", None, _check_folder),
    ("envelope", "folder", _check_envelope),
    ("statement", "envelope", _check_statement),
    ("files", "statement", _check_files),
    ("manifest", "files", _check_manifest),
    ("manifest-files", "manifest", _check_manifest_files),
    ("model", "manifest", _check_model),
    ("receipts", "manifest", _check_receipts),
    ("rounds", "manifest", _check_rounds),
    ("privacy", "manifest", _check_privacy),
    ("trust", None, _check_trust),
)
