"""A steward's decisions about models: candidate → validated → released → withdrawn, each a signed entry of the log.

Only a key that the home's trust file names as a steward's decides. What is promoted is verified first, and the
steward signs the model too. `affected` is a remark, not a decision: it is the coordinator's word.
"""

import contextlib
import datetime as dt
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from solblom_models.life_cycle import NEXT, stated_status, status_in_folder
from solblom_models.trusted import pinned_trust
from solblom_protocol.durable_file import PUBLIC, write_whole
from solblom_protocol.errors import ConfigurationError, IntegrityError, RefusedError, RunError
from solblom_protocol.messages.message import timestamp
from solblom_protocol.messages.signing import add_signature, sign_envelope
from solblom_server.coordinator import Coordinator
from solblom_server.log.entries import LogEntry, model_registered, status_given
from solblom_server.log.files import ATTESTATION, log_in_turn, write_log_files
from solblom_server.log.transparency_log import TransparencyLog
from solblom_verify.artefact import verify_artefact
from solblom_verify.canonical import (
    canonical_json,
    digest,
    file_digest,
    parse_canonical,
    read_file,
)
from solblom_verify.envelope import key_id
from solblom_verify.history import (
    AFFECTED,
    CANDIDATE,
    STATUS_PAYLOAD_TYPE,
    STATUS_SCHEMA,
    WITHDRAWN,
    History,
    ModelName,
    read_history,
)
from solblom_verify.shape import JsonObject
from solblom_verify.trust import Trust

MAX_REASON = 500  # characters; it stands in the log for ever
AFFECTED_REASON = "Somebody whose data are in the model has withdrawn consent since"


@dataclass(frozen=True)
class Registered:
    """A model in the home's registry: where, which, and from which run."""

    folder: Path
    model: ModelName
    run: str

    @property
    def ref(self) -> str:
        """Return the model's reference."""
        return f"{self.model.name}@{self.model.version}"


@dataclass(frozen=True)
class Withdrawal:
    """What was withdrawn, and what is left to do."""

    found: Registered
    missing: list[str]  # hospitals that have not cosigned the new head
    unwritten: str = ""  # why log/ in the model's folder is still the old one; empty: it is new


def registered_model(folder: Path) -> Registered:
    """Return what an artefact's manifest says it is.

    Raises:
        IntegrityError: SB-401, the manifest cannot be read.
    """
    try:
        manifest: Any = parse_canonical(read_file(folder / "manifest.json"))
        name, version = str(manifest["name"]), str(manifest["version"])
        run = str(manifest["training"]["run"])
    except (OSError, ValueError, KeyError, TypeError):
        raise IntegrityError("SB-401", f"{folder.name}: the manifest cannot be read") from None
    return Registered(
        folder, ModelName(file_digest(folder / "manifest.json")[0], name, version), run
    )


def recorded_model(coordinator: Coordinator, folder: Path) -> Registered:
    """Return which model the coordinator's database says that a folder is; one that it does not know says so itself.

    Raises:
        IntegrityError: SB-401, its manifest cannot be read.
    """
    place = folder.resolve()
    known = (found for found in _recorded(coordinator) if found.folder.resolve() == place)
    return next(known, None) or registered_model(folder)


def recorded_folder(coordinator: Coordinator, ref: str) -> Path | None:
    """Return the folder of `name@v3` or `sha256:…` as the database knows it, whatever lies in it; None: not known."""
    known = (f.folder for f in _recorded(coordinator) if ref in (f.ref, f.model.artefact))
    return next(known, None)


def _recorded(coordinator: Coordinator) -> list[Registered]:
    with contextlib.closing(coordinator.database()) as database:
        rows = database.models()
    return [
        Registered(
            coordinator.home / "models" / f"{name}-v{version}",
            ModelName(artefact, name, f"v{version}"),
            run,
        )
        for name, version, run, artefact, _ in rows
        if artefact
    ]


def history_of(log: TransparencyLog, model: ModelName, trust: Trust) -> History | None:
    """Return what the coordinator's log says about a model, signatures checked; None: it is in no log.

    Raises:
        IntegrityError: SB-410, an entry does not hold.
    """
    entries = [
        JsonObject.of(parse_canonical(text.encode()), f"entry {index}")
        for index, text in log.about(model.artefact).items()
    ]
    if not entries:
        return None
    try:
        return read_history(entries, model, trust)
    except ValueError as error:
        raise IntegrityError("SB-410", f"{model.name}@{model.version}: {error}") from None


def promote(
    coordinator: Coordinator,
    folder: Path,
    status: str,
    reason: str,
    key: Ed25519PrivateKey,
    *,
    now: dt.datetime,
) -> list[str]:
    """Verify a model, sign it as its steward, and log that it is validated or released; write its log/ anew.

    Returns the hospitals that have not cosigned the new head.

    Raises:
        IntegrityError: SB-401 the model does not verify; SB-410.
        RefusedError: SB-422 not the next step; SB-423 not a steward's key.
        ConfigurationError: SB-103, the reason cannot be logged.
    """
    found, trust = registered_model(folder), _own_trust(coordinator, folder)
    _check_signer(trust, key, now)
    _check_reason(reason)
    with log_in_turn(coordinator) as log:  # two stewards at once would undo each other's signatures
        signed = read_file(folder / ATTESTATION)
        envelope = add_signature(signed, key)
        is_written = signed == envelope and stated_status(folder) == status
        history = history_of(log, found.model, trust)
        if is_written or not _is_logged(history, status, envelope):
            _check_verifies(folder, trust, key, now)
            _check_step(history, found, status)
            decided = _entry(found.model, status, reason, key, now)
            log.append(decided, _signed_again(found, envelope, now))
        write_whole(folder / ATTESTATION, envelope, mode=PUBLIC)
        return write_log_files(folder, log, found.model.artefact)


def _is_logged(history: History | None, status: str, envelope: bytes) -> bool:
    """Tell whether this very step is in the log already: a crash may have kept it from the artefact's folder."""
    return history is not None and history.status == status and history.envelope == digest(envelope)


def _check_verifies(folder: Path, trust: Trust, key: Ed25519PrivateKey, now: dt.datetime) -> None:
    # The steward's signature, which comes now, may be the one that the threshold waits for.
    waiting = replace(trust, threshold=max(1, trust.threshold - 1))
    verdict = verify_artefact(folder, waiting, now=now)
    if key_id(key.public_key()) in verdict.signers:
        verdict = verify_artefact(folder, trust, now=now)
    if not verdict.ok:
        failed = next(check for check in verdict.checks if not check.ok)
        raise IntegrityError("SB-401", f"{folder.name}: {failed.name}: {failed.reason}")


def _signed_again(found: Registered, envelope: bytes, now: dt.datetime) -> LogEntry:
    return model_registered(
        artefact=found.model.artefact,
        name=found.model.name,
        version=found.model.version,
        run=found.run,
        envelope=envelope,
        time=timestamp(now),
    )


def withdraw(
    coordinator: Coordinator, folder: Path, reason: str, key: Ed25519PrivateKey, *, now: dt.datetime
) -> Withdrawal:
    """Log that a model is withdrawn, and write its log/ anew: whoever verifies it from now on is told so.

    Which model it is, the database says: a folder that was changed is no way to escape. A withdrawal counts without
    cosignatures. One that is logged and did not reach the folder is finished.

    Raises:
        IntegrityError: SB-401, the database does not know the model and its manifest cannot be read; SB-410.
        RefusedError: SB-422 withdrawn already; SB-423 not a steward's key.
        ConfigurationError: SB-103, the reason cannot be logged.
    """
    trust, found = _own_trust(coordinator, folder), recorded_model(coordinator, folder)
    _check_signer(trust, key, now)
    _check_reason(reason)
    with log_in_turn(coordinator) as log:
        history = history_of(log, found.model, trust)
        is_logged = history is not None and history.status == WITHDRAWN
        if not is_logged or status_in_folder(folder) == WITHDRAWN:
            _check_step(history, found, WITHDRAWN)
            log.append(_entry(found.model, WITHDRAWN, reason, key, now))
        try:
            return Withdrawal(found, write_log_files(folder, log, found.model.artefact))
        except IntegrityError as error:
            return Withdrawal(found, [], error.message)
        except OSError as error:
            return Withdrawal(found, [], error.strerror or "it cannot be written")


def mark_affected(coordinator: Coordinator, runs: set[str], *, now: dt.datetime) -> list[str]:
    """Log, once for each, that the models of these runs are affected by a withdrawal of consent.

    The hospital is not named: the log is shown to everybody. Returns the references of the models that are marked
    now, marked before or not.

    Raises:
        IntegrityError: SB-410.
    """
    models = [found for found in _recorded(coordinator) if found.run in runs]
    marked = []
    with log_in_turn(coordinator) as log:
        for found in models:
            history = history_of(log, found.model, _own_trust(coordinator, found.folder))
            if history is None:
                continue  # made by a version without a log
            if all(entry.status != AFFECTED for entry in history.statuses):
                log.append(_entry(found.model, AFFECTED, AFFECTED_REASON, coordinator.signing, now))
            marked.append(found.ref)
    return marked


def _own_trust(coordinator: Coordinator, folder: Path) -> Trust:
    if folder.resolve().parent != (coordinator.home / "models").resolve():
        message = f"{folder} does not stand in the registry of {coordinator.home}"
        raise RunError("SB-503", message)
    return pinned_trust(folder, None)[1]


def _check_signer(trust: Trust, key: Ed25519PrivateKey, now: dt.datetime) -> None:
    keyid = key_id(key.public_key())
    steward = next((k for k in trust.keys if k.keyid == keyid and k.role == "steward"), None)
    if steward is None:
        raise RefusedError("SB-423", f"The trust file names no steward with the key {keyid[:16]}…")
    if not steward.is_valid(now):
        raise RefusedError("SB-423", f"The key of {steward.name} is not valid now")


def _check_reason(reason: str) -> None:
    if not reason.strip() or len(reason) > MAX_REASON or not reason.isprintable():
        raise ConfigurationError(
            "SB-103", f"The reason must be one line of text, at most {MAX_REASON} characters"
        )


def _check_step(history: History | None, found: Registered, status: str) -> None:
    if history is None:
        raise RefusedError("SB-422", f"{found.ref} stands in no log: an older version made it")
    if status not in NEXT[history.status]:
        allowed = ", ".join(NEXT[history.status]) or "nothing"
        message = f"{found.ref} is {history.status}: {allowed} can follow, not {status}"
        raise RefusedError("SB-422", message)


def _entry(
    model: ModelName, status: str, reason: str, key: Ed25519PrivateKey, now: dt.datetime
) -> LogEntry:
    said = {
        "schema": STATUS_SCHEMA,
        "artefact": model.artefact,
        "name": model.name,
        "version": model.version,
        "status": status,
        "reason": reason,
        "time": timestamp(now),
    }
    envelope: Any = parse_canonical(sign_envelope(canonical_json(said), STATUS_PAYLOAD_TYPE, [key]))
    return status_given(artefact=model.artefact, envelope=envelope, time=timestamp(now))


def status_of(history: History | None) -> str:
    """Return a model's status in one word, for lists."""
    return CANDIDATE if history is None else history.status
