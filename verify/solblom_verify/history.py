"""What the log says about one model: when it was signed, and what stewards decided about it since."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from solblom_verify.canonical import canonical_json, parse_canonical
from solblom_verify.envelope import open_envelope
from solblom_verify.log import (
    ENTRY_SCHEMA,
    Checkpoint,
    LogError,
    open_checkpoint,
    read_export,
    read_inclusion,
)
from solblom_verify.shape import JsonObject
from solblom_verify.trust import Trust, TrustedKey

STATUS_SCHEMA = "solblom.status/1"
STATUS_PAYLOAD_TYPE = "application/vnd.solblom.status+json"
CANDIDATE, WITHDRAWN, AFFECTED = "candidate", "withdrawn", "affected"
_STATUS = re.compile(r"candidate|validated|released|withdrawn|affected")
_COORDINATOR_MAY_SAY = frozenset({CANDIDATE, AFFECTED})  # the rest is a steward's word


@dataclass(frozen=True)
class ModelName:
    """Which model: the digest of its manifest, its name and version."""

    artefact: str
    name: str
    version: str


@dataclass(frozen=True)
class Status:
    """A signed decision about a model, or the remark that it is affected by a withdrawn consent."""

    status: str
    reason: str
    time: datetime
    signer: str  # name of the key in the trust file
    keyid: str = ""  # of that key


@dataclass(frozen=True)
class History:
    """A model's entries in the log."""

    signed: datetime  # time of the newest `model` entry
    envelope: str  # digest of the signed statement that it names
    statuses: tuple[Status, ...]  # in order of the log

    @property
    def newest(self) -> datetime:
        """The time of the newest entry."""
        return max([self.signed, *(entry.time for entry in self.statuses)])

    @property
    def status(self) -> str:
        """The newest decision; `withdrawn` is the last one, whatever follows it."""
        return CANDIDATE if self.decision is None else self.decision.status

    @property
    def decision(self) -> Status | None:
        """The decision that counts; None where nobody has decided yet."""
        decided = [s for s in self.statuses if s.status != AFFECTED]
        withdrawn = [s for s in decided if s.status == WITHDRAWN]
        return next(iter([*withdrawn, *reversed(decided)]), None)


@dataclass(frozen=True)
class LoggedModel:
    """What is known of a model from the log."""

    key: TrustedKey  # signs the log
    checkpoint: Checkpoint  # the model's own
    cosigned: tuple[str, ...]  # hospitals of the run whose cosignatures of it count
    missing: tuple[str, ...]  # those that did not cosign it, or whose key is not pinned
    lacking: int  # how many cosignatures are missing for a quorum; 0 or less: none
    history: History  # up to it
    latest: History  # up to the newer log that was given, if one was
    newer: Checkpoint | None


def read_log(
    model: ModelName,
    origin: str,
    checkpoint: bytes,
    inclusion: bytes,
    *,
    export: bytes | None,
    sites: Mapping[str, Ed25519PublicKey],
    trust: Trust,
) -> LoggedModel:
    """Verify the model's place in the log, and read what the log says about it.

    Args:
        model: which model.
        origin: the log's name, by which the key that signs it is found in the trust file.
        checkpoint: the bytes of the artefact's log/checkpoint.txt.
        inclusion: those of its log/inclusion.json.
        export: a whole, newer log, or None.
        sites: keys of the hospitals, which witness where the trust file pins no witnesses.
        trust: the keys that count.

    Raises:
        LogError: the log does not hold, or an entry does not belong.
        CanonicalError, ShapeError, EnvelopeError: another spelling or form, or not signed.
    """
    key = _log_key(origin, trust)
    pinned = [(witness.name, witness.public_key) for witness in trust.witnesses]
    head = open_checkpoint(checkpoint, origin, key.public_key, [*pinned, *sites.items()])
    entries = read_inclusion(inclusion, head)
    history = read_history(entries.values(), model, trust)
    # Names that count are those of the run, with pinned keys where the trust file has some.
    given = [(name, cosignature.key) for name, cosignature in head.cosigned.items()]
    counted = tuple(n for n, k in given if n in sites and (not pinned or (n, k) in pinned))
    missing = tuple(sorted(sites.keys() - set(counted)))
    # All but one, and always more than half: of two hospitals, one may be the coordinator's own.
    quorum = trust.quorum or max(len(sites) // 2 + 1, len(sites) - 1)
    about_model = (key, head, counted, missing, quorum - len(counted), history)
    if export is None:
        return LoggedModel(*about_model, latest=history, newer=None)
    newer, log = read_export(export, head, key.public_key, pinned or sites.items())
    about = {i: e for i, e in enumerate(log) if e.members.get("artefact") == model.artefact}
    if {i: e.members for i, e in about.items() if i < head.size} != {
        i: e.members for i, e in entries.items()
    }:
        raise LogError("inclusion.json does not hold all entries of the model")
    latest = read_history(about.values(), model, trust)
    return LoggedModel(*about_model, latest=latest, newer=newer)


def _log_key(origin: str, trust: Trust) -> TrustedKey:
    for key in trust.keys:
        if key.role == "coordinator" and origin == f"solblom/{key.keyid[:16]}":
            return key
    raise LogError(f"no trusted coordinator's key signs the log {origin!a}")


def read_history(entries: Iterable[JsonObject], model: ModelName, trust: Trust) -> History:
    """Read a model's entries, verifying the signature of each decision.

    Raises:
        LogError: an entry does not belong, none is of the model, or its signer may not decide so.
        CanonicalError, ShapeError, EnvelopeError: another spelling or form, or not signed.
    """
    newest: JsonObject | None = None
    statuses = []
    common = {"schema", "kind", "time", "artefact", "envelope"}
    for entry in entries:
        kind = entry.text("kind")
        if entry.text("schema") != ENTRY_SCHEMA or entry.digest("artefact") != model.artefact:
            raise LogError(f"{entry.where} is about something else than this model")
        if kind == "model":
            newest = entry.only(common | {"name", "version", "run"})
            if (newest.text("name"), newest.text("version")) != (model.name, model.version):
                raise LogError(f"{entry.where} names another model")
        elif kind == "status":
            decision = entry.only(common).object("envelope")
            statuses.append(_read_status(decision, entry.time("time"), model, trust))
        else:
            raise LogError(f"{entry.where} is of another kind")
    if newest is None:
        raise LogError("the log has no entry of the model")
    return History(newest.time("time"), newest.digest("envelope"), tuple(statuses))


def _read_status(envelope: JsonObject, logged: datetime, model: ModelName, trust: Trust) -> Status:
    opened = open_envelope(
        canonical_json(envelope.members), payload_type=STATUS_PAYLOAD_TYPE, keys=trust.public_keys
    )
    said = JsonObject.of(parse_canonical(opened.payload), "status")
    said.only({"schema", "artefact", "name", "version", "status", "reason", "time"})
    about = tuple(said.text(key) for key in ("schema", "artefact", "name", "version"))
    if about != (STATUS_SCHEMA, model.artefact, model.name, model.version):
        raise LogError("a status is about something else than this model")
    status, time = said.text("status", like=_STATUS), said.time("time")
    signer = next(key for key in trust.keys if key.keyid in opened.signers)
    if signer.role != "steward" and status not in _COORDINATOR_MAY_SAY:
        raise LogError(f"{status} is a steward's decision, and {signer.name} is none")
    if time != logged:
        raise LogError(f"{status} was said at another time than logged")
    if not signer.is_valid(time):
        raise LogError(f"the key of {signer.name} was not valid when it said {status}")
    return Status(status, said.text("reason"), time, signer.name, signer.keyid)
