"""The checks on a model artefact: a folder, a trust file and the time in, a verdict out.

Source of the statement: in-toto Statement v1
(https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from solblom_verify.canonical import digest, file_digest, parse_canonical
from solblom_verify.envelope import key_id, open_envelope
from solblom_verify.folder import (
    ATTESTATION,
    CHECKPOINT,
    INCLUSION,
    MANIFEST,
    Artefact,
    CheckError,
    refuse,
    same,
)
from solblom_verify.history import AFFECTED, CANDIDATE, WITHDRAWN, Status
from solblom_verify.shape import JsonObject
from solblom_verify.trust import Trust
from solblom_verify.wording import counted

MANIFEST_SCHEMA = "solblom.artefact/1"
RECEIPT_SCHEMA = "solblom.receipt/1"
RECEIPT_PAYLOAD_TYPE = "application/vnd.solblom.receipt+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:solblom:attestation:model:1"

_NOT_SUBJECTS = frozenset({ATTESTATION, CHECKPOINT, INCLUSION})  # they vouch for the others
_WEIGHTS = "model/weights.safetensors"
_RECEIPTS = "training/receipts/"

_RULE = re.compile(r"[ -~]{1,200}")  # shown in a terminal: printable ASCII
_VERSION = re.compile(r"v[1-9][0-9]*")
_NUMBER = r"[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?"
_EPSILON = re.compile(rf"{_NUMBER}|inf|off")
_DELTA = re.compile(rf"{_NUMBER}|off")
_CLOCK_SKEW = timedelta(minutes=10)  # between the coordinator and a witness
_MAX_REASON = 500  # characters; a hostile file must not fill the terminal

# What a verdict does not say, by a code for whoever puts it into other words.
_NEVER_CHECKED = {
    "epsilon": "Epsilon and delta: taken from the manifest, not recomputed from privacy/events.json.",
    "rounds": "The rounds: the weights were not aggregated again from the hospitals' updates (replay).",
    "final": "The final model: how it was made from the last rounds is claimed, not derived again.",
    "reports": "The hospitals' reports: a receipt proves who said something, not that it is true.",
    "patients": "The patients: that their data were as described cannot be seen from here.",
    "times": "Times: when the model was made and signed is the coordinator's claim; witnesses say no later.",
    "files": "Other files (study, permits, consent, evaluation, model card): signed, but not interpreted.",
}
_SIMULATED = "Hospitals: this is a simulation; one machine made all the keys and receipts."
_EXPIRED = "Trust: the trust file has expired since the model was signed; later withdrawal unknown."
_NO_LOG = "Log: this model has none; nobody witnessed when it was signed or decided about since."
_MANIFEST_KEYS = "Receipts: by the hospitals' keys in the manifest, which the coordinator wrote."
_NOT_PINNED = "Witnesses: their keys are those of the manifest, not pinned in the trust file."
_STALE = "Withdrawal: later withdrawal unknown; what came after or was left out is in a fresh log."
_FRESH = "Withdrawal: later withdrawal unknown after the log that was given"


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
    limits: tuple[tuple[str, str], ...]  # what was not checked: code and sentence
    artefact: str | None  # digest of manifest.json
    name: str | None
    version: str | None
    signers: tuple[str, ...]  # key ids
    signed: datetime | None  # as the log says
    status: str | None  # candidate | validated | released | withdrawn
    statuses: tuple[Status, ...]  # the decisions that led there, and remarks
    witnesses: tuple[str, ...]  # who cosigned, by name

    @property
    def not_checked(self) -> tuple[str, ...]:
        """What was not checked, in sentences."""
        return tuple(sentence for _, sentence in self.limits)


def verify_artefact(
    folder: Path, trust: Trust, *, now: datetime, fresh_log: Path | None = None
) -> Verdict:
    """Check every byte of an artefact folder against its signatures and itself.

    Bad input never raises: it is a check that failed. A check that needs a failed one is failed
    too, with a reason that starts with "not reached".

    Args:
        folder: the artefact.
        trust: the keys whose signatures count.
        now: the time, with its zone; a trust file that has expired since the signing is said.
        fresh_log: the coordinator's log of today, in which a later withdrawal is seen.
    """
    artefact = Artefact(folder, trust, now, fresh_log)
    results: dict[str, Check] = {}
    for name, needs, check in _CHECKS:
        if needs is None or results[needs].ok:
            results[name] = _run(name, check, artefact)
        else:
            results[name] = Check(name, False, f"not reached: it needs the check '{needs}'")
    manifest = artefact.manifest if results["manifest"].ok else None
    log = artefact.log if results["log"].ok else None
    return Verdict(
        ok=all(result.ok for result in results.values()),
        checks=tuple(results.values()),
        limits=(*_NEVER_CHECKED.items(), *_not_checked(artefact, results)),
        artefact=artefact.subjects[MANIFEST] if manifest else None,
        name=manifest.text("name") if manifest else None,
        version=manifest.text("version") if manifest else None,
        signers=artefact.envelope.signers if results["envelope"].ok else (),
        signed=log.history.signed if log else None,
        status=log.latest.status if log else None,
        statuses=log.latest.statuses if log else (),
        witnesses=log.cosigned if log else (),
    )


def _not_checked(artefact: Artefact, results: Mapping[str, Check]) -> Iterator[tuple[str, str]]:
    log = artefact.log if results["log"].ok else None
    if results["manifest"].ok and artefact.manifest.get("simulation", bool):
        yield "simulation", _SIMULATED
    if results["trust"].ok and results["trust"].reason:
        yield "expired", _EXPIRED
    if not artefact.trust.witnesses:
        yield "manifest-keys", _MANIFEST_KEYS
    if results["log"].ok and log is None:
        yield "no-log", _NO_LOG
    if log is not None and not artefact.trust.witnesses:
        yield "not-pinned", _NOT_PINNED
    if log is None or log.newer is None:
        yield "stale", _STALE
    else:
        by = ", ".join(log.newer.cosigned) or "nobody"
        yield "fresh", f"{_FRESH}: {log.newer.size} entries, cosigned by {by}."


def _run(name: str, check: Callable[[Artefact], str], artefact: Artefact) -> Check:
    try:
        return Check(name, True, check(artefact))
    except (ValueError, OSError) as error:  # each part's own error is a ValueError
        return Check(name, False, str(error)[:_MAX_REASON])
    except Exception as error:  # Fail closed: what was not foreseen is a check that failed.
        return Check(name, False, f"could not be checked ({type(error).__name__})")


def _check_folder(artefact: Artefact) -> str:
    return counted(len(artefact.files), "file")


def _check_envelope(artefact: Artefact) -> str:
    signers = artefact.envelope.signers
    names = (f"{key.name} ({key.role})" for key in artefact.trust.keys if key.keyid in signers)
    return f"signed by {', '.join(names)}"


def _check_statement(artefact: Artefact) -> str:
    statement, predicate = artefact.statement, artefact.predicate
    same("statement._type", statement.text("_type"), STATEMENT_TYPE)
    same("statement.predicateType", statement.text("predicateType"), PREDICATE_TYPE)
    predicate.digest("artefact")
    predicate.text("name")
    predicate.text("version", like=_VERSION)
    predicate.time("created")
    predicate.text("run")
    predicate.get("simulation", bool)
    return counted(len(artefact.subjects), "signed file")


def _check_files(artefact: Artefact) -> str:
    present = artefact.files - _NOT_SUBJECTS
    refuse("extra file", present - artefact.subjects.keys())
    refuse("missing file", artefact.subjects.keys() - present)
    artefact.read(MANIFEST)  # its size is limited: not gigabytes are hashed to find it wrong
    changed = (p for p in present if file_digest(artefact.folder / p)[0] != artefact.subjects[p])
    refuse("changed file", list(changed))
    return ""


def _check_manifest(artefact: Artefact) -> str:
    manifest, predicate = artefact.manifest, artefact.predicate
    same("manifest.schema", manifest.text("schema"), MANIFEST_SCHEMA)
    same("digest of manifest.json", artefact.subjects[MANIFEST], predicate.digest("artefact"))
    manifest.text("task")
    same("name", manifest.text("name"), predicate.text("name"))
    same("version", manifest.text("version", like=_VERSION), predicate.text("version"))
    same("simulation", manifest.get("simulation", bool), predicate.get("simulation", bool))
    same("run", manifest.object("training").text("run"), predicate.text("run"))
    manifest.object("environment")
    return ""


def _check_manifest_files(artefact: Artefact) -> str:
    for path, entry in artefact.manifest.object("files").items():
        entry.only({"bytes", "sha256"})
        if path not in artefact.subjects:
            raise CheckError(f"manifest.files names {path!a}, which is not a signed file")
        same(f"digest of {path}", f"sha256:{entry.sha256('sha256')}", artefact.subjects[path])
        size = (artefact.folder / path).lstat().st_size
        same(f"bytes of {path}", entry.get("bytes", int), size)
    return ""


def _check_model(artefact: Artefact) -> str:
    if _WEIGHTS not in artefact.subjects:
        raise CheckError(f"missing file: {_WEIGHTS}")
    stated = artefact.manifest.object("model").digest("weights")
    same("digest of the weights", stated, artefact.subjects[_WEIGHTS])
    return ""


def _check_receipts(artefact: Artefact) -> str:
    keys = artefact.site_keys
    receipts: set[str] = set()
    for entry in artefact.rounds:
        for site, result in entry.object("results").items():
            if site not in keys:
                raise CheckError(f"{entry.where} names {site!a}, which manifest.sites does not")
            if artefact.trust.witnesses and not artefact.trust.pins(site, keys[site]):
                raise CheckError(f"the key of {site!a} in the manifest is not pinned")
            path = f"{_RECEIPTS}{entry.get('round', int):03d}-{site}.dsse.json"
            data = artefact.read(path)
            same(f"digest of {path}", digest(data), result.digest("receipt"))
            try:
                _check_receipt(artefact, data, entry, site, keys[site])
            except ValueError as error:
                raise CheckError(f"{path}: {error}") from error
            receipts.add(path)
    stored = {path for path in artefact.subjects if path.startswith(_RECEIPTS)}
    refuse("receipt of no round", stored - receipts)
    return counted(len(receipts), "receipt")


def _check_receipt(
    artefact: Artefact, data: bytes, entry: JsonObject, site: str, key: Ed25519PublicKey
) -> None:
    opened = open_envelope(data, payload_type=RECEIPT_PAYLOAD_TYPE, keys={key_id(key): key})
    receipt = JsonObject.of(parse_canonical(opened.payload), "receipt")
    result = entry.object("results").object(site)
    training = artefact.manifest.object("training")
    same("schema", receipt.text("schema"), RECEIPT_SCHEMA)
    same("site", receipt.text("site"), site)
    same("run", receipt.text("run"), training.text("run"))
    same("study", receipt.digest("study"), training.digest("study"))
    same("round", receipt.get("round", int), entry.get("round", int))
    same("base model", receipt.digest("base_model"), entry.digest("base"))
    same("update", receipt.digest("update"), result.digest("update"))
    same("work", receipt.digest("work"), result.digest("work"))
    receipt.digest("order")


def _check_rounds(artefact: Artefact) -> str:
    rounds, training = artefact.rounds, artefact.manifest.object("training")
    stated = training.objects("rounds")
    same("number of rounds", len(rounds), len(stated))
    previous = rounds[0].digest("base")
    for number, (entry, claim) in enumerate(zip(rounds, stated, strict=True), start=1):
        same("round number", entry.get("round", int), number)
        same(f"base of round {number}", entry.digest("base"), previous)
        same("round number in the manifest", claim.get("round", int), number)
        for key in ("base", "result"):
            same(f"{key} of round {number}", entry.digest(key), claim.digest(key))
        results = entry.object("results").items()
        updates = {site: result.digest("update") for site, result in results}
        same(f"updates of round {number}", updates, dict(claim.object("updates").members))
        previous = entry.digest("result")
    rule = training.object("aggregation").text("rule", like=_RULE)
    return f"{counted(len(rounds), 'round')}; stated rule: {rule}"


def _check_privacy(artefact: Artefact) -> str:
    stated = artefact.manifest.object("privacy").object("sites")
    sites = {site for entry in artefact.rounds for site in entry.object("results").members}
    unbounded = []
    for site in sorted(sites):
        stated.object(site).text("delta", like=_DELTA)
        if stated.object(site).text("epsilon", like=_EPSILON) in {"inf", "off"}:
            unbounded.append(site)
    return f"no differential privacy at: {', '.join(unbounded)}" if unbounded else ""


def _check_log(artefact: Artefact) -> str:
    log = artefact.log
    if log is None:
        if artefact.trust.witnesses:
            raise CheckError("none, and the trust file names witnesses of one")
        return "none: made by a version without a log"
    envelope = digest(artefact.read_unsigned(ATTESTATION))
    same("envelope in the log", log.history.envelope, envelope)
    return f"signed {log.history.signed:%Y-%m-%dT%H:%M:%SZ}"


def _check_witnesses(artefact: Artefact) -> str:
    log = artefact.log
    if log is None:
        return "none"
    missing = f"not by {', '.join(log.missing)}" if log.missing else ""
    if log.lacking > 0:
        raise CheckError(f"{log.lacking} cosignatures too few: {missing}")
    earliest = log.history.newest - _CLOCK_SKEW
    if any(witness.time < earliest for witness in log.checkpoint.cosigned.values()):
        raise CheckError("cosigned before what it vouches for was signed")
    return f"cosigned by {', '.join(log.cosigned)}{missing and ', ' + missing}"


def _check_status(artefact: Artefact) -> str:
    if artefact.log is None:
        return "unknown"
    latest = artefact.log.latest
    for entry in latest.statuses:
        if entry.status == WITHDRAWN:
            raise CheckError(f"withdrawn {entry.time:%Y-%m-%d} by {entry.signer}: {entry.reason}")
    decision = latest.decision
    # The decision names the manifest only; what else the model says, its signer has signed too.
    if (
        decision is not None
        and decision.status != CANDIDATE
        and decision.keyid not in artefact.envelope.signers
    ):
        raise CheckError(f"{decision.signer} said {decision.status}, and did not sign these files")
    affected = any(entry.status == AFFECTED for entry in latest.statuses)
    return f"{latest.status}{', affected by a withdrawal of consent' if affected else ''}"


def _check_trust(artefact: Artefact) -> str:
    trust, log = artefact.trust, artefact.log
    keys = [key for key in trust.keys if key.keyid in artefact.envelope.signers]
    if log is None:
        # Nobody witnessed the time: whoever has an old key could sign with any date, so keys and
        # trust file must be valid still.
        time = artefact.now
    else:
        time = log.history.signed
        keys.append(log.key)
    for key in keys:
        if not key.is_valid(time):
            raise CheckError(f"the key of {key.name} was not valid on {time:%Y-%m-%d}")
    if trust.expires <= time:
        when = "at the signing" if log else "and no log says when the model was signed"
        raise CheckError(f"the trust file had expired ({trust.expires:%Y-%m-%d}) {when}")
    expired = trust.expires <= artefact.now
    return f"the trust file expired on {trust.expires:%Y-%m-%d}" if expired else ""


# Name, the check it needs, the function: raises what is wrong, or gives a note ("" for none).
_CHECKS: tuple[tuple[str, str | None, Callable[[Artefact], str]], ...] = (
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
    ("log", "manifest", _check_log),
    ("witnesses", "log", _check_witnesses),
    ("status", "log", _check_status),
    ("trust", "log", _check_trust),
)
