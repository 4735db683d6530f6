"""Answers that wait for a person: `policy.release = "manual"`. Each is stored, charged and sealed, and has not left.

    state/outbox/<request>.json   what it is, for the person who decides

The bytes lie where all stored replies lie. Releasing lets the coordinator have them when it asks again,
and then the whole gate, consent and cohort are checked anew (privacy.md rule 10). Rejecting erases them;
the charge stays, because the patients' data were used.
"""

import contextlib
import datetime as dt
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from solblom_client.answers import Answer
from solblom_client.approvals.approval import read_approval
from solblom_client.budget.ledger import STATE_FILE, open_ledger
from solblom_client.cohorts.cohort import read_consent_now
from solblom_client.keys import NodeKeys
from solblom_client.log.check import is_logged
from solblom_client.log.decision import Decision
from solblom_client.log.decision_log import DecisionLog, LogPlace, log_place
from solblom_client.policy import NodeConfig
from solblom_client.service.opening_hours import WaitingError
from solblom_client.state import VaultState
from solblom_client.store import Store
from solblom_client.work import Work
from solblom_models.accountant import format_epsilon, patient_epsilon
from solblom_protocol.durable_file import write_whole
from solblom_protocol.errors import ConfigurationError, IntegrityError, RefusedError
from solblom_protocol.keys.public_keys import PublicKeys
from solblom_protocol.messages.message import Digest, Message, parse_message, timestamp
from solblom_protocol.messages.result import Receipt

FOLDER = "outbox"
_LOST = (
    "Its answer stays inside. Restore the file, or move it away: nobody can release the answer then"
)
Status = Literal["waiting", "released", "rejected"]


class HeldAnswer(Message):
    """What a person sees before deciding. It stays inside: the norm and the largest value are no public numbers.

    Attributes:
        size_bytes: of the update or the counts; `sealed_bytes` is what travels.
        tensors: names and shapes, as the approved net has them; empty for counts.
        norm: L2 norm of what leaves, and `largest` its largest absolute value; None under masks, where
            the numbers say nothing.
        epsilon: what this event alone costs at the node's delta, as a decimal string.
        destination: identity of the coordinator's key, to which it is sealed.
    """

    schema_: Literal["solblom.held-answer/1"] = Field(alias="schema")
    status: Status
    request: Digest
    work: Digest
    order: Digest
    study: Digest
    run: str
    kind: str
    round: int
    update: Digest
    receipt: Digest
    size_bytes: int
    sealed_bytes: int
    tensors: list[dict[str, Any]]
    norm: str | None
    largest: str | None
    event: dict[str, Any]
    epsilon: str
    outside_epsilon: list[str]
    patients: str
    destination: str
    made: str
    decided: str | None = None
    by: str | None = None


@dataclass(frozen=True)
class Outbox:
    """The answers of one node that wait, or that a person has decided about."""

    folder: Path
    manual: bool
    log: LogPlace

    @classmethod
    def of(cls, config: NodeConfig) -> "Outbox":
        """Return a node's outbox."""
        return cls(config.state / FOLDER, config.policy.release == "manual", log_place(config))

    def check(self, request: str) -> None:
        """Refuse what was rejected, and what still waits; asked before anything is charged or read.

        Raises:
            RefusedError: SB-220.
            WaitingError: SB-219.
        """
        held = self.find(request)
        if held is None or held.status == "released":
            return
        if held.status == "rejected":
            raise RefusedError("SB-220", "A person has rejected this answer")
        raise WaitingError("The answer waits for a person: solblom node outbox list")

    def check_stored(self, request: str, work: str, *, has_left: Callable[[], bool]) -> None:
        """Refuse to hand out stored bytes that nobody has released, where a person must.

        A record is a file like any other, and who can write it is no person who decided: the log must say so
        too. `has_left` tells whether the log says that they left earlier, before a person had to.

        Raises:
            WaitingError: SB-219.
            IntegrityError: SB-405 or SB-406, record or log cannot be read.
        """
        held = self.find(request)
        # What was held stays held, also when the policy has changed since and its record is gone.
        asked = self.manual or is_logged(self.log, "held", work)
        if not asked or (held is None and has_left()):
            return
        if held is None or held.work != work or held.status != "released":
            raise WaitingError("Nobody has released these bytes")
        if not is_logged(self.log, "manual-release", work):
            raise WaitingError("The log of decisions names nobody who released these bytes")

    def find(self, request: str) -> HeldAnswer | None:
        """Return what is known about the answer to a request.

        Raises:
            IntegrityError: SB-405, it cannot be read: then nothing is handed out.
        """
        path = self._path(request)
        return self._read(path) if path.exists() else None

    def all(self) -> list[HeldAnswer]:
        """Return every answer that waited here and can be read, the oldest first; `broken` names the others."""
        found = []
        for path in self._paths():
            with contextlib.suppress(IntegrityError):
                found.append(self._read(path))
        return sorted(found, key=lambda held: (held.made, held.request))

    def broken(self) -> list[str]:
        """Return the names of the records that cannot be read: their answers stay inside."""
        names = []
        for path in self._paths():
            try:
                self._read(path)
            except IntegrityError:
                names.append(path.name)
        return names

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("*.json")) if self.folder.is_dir() else []

    def _read(self, path: Path) -> HeldAnswer:
        """Return a record.

        Raises:
            IntegrityError: SB-405, it cannot be read, or lies under another's name.
        """
        try:
            found = parse_message(HeldAnswer, path.read_bytes())
        except OSError:
            raise IntegrityError("SB-405", "A held answer cannot be read") from None
        if self._path(found.request) != path:
            raise IntegrityError("SB-405", "A held answer is filed under another's name")
        return found

    def named(self, name: str) -> HeldAnswer:
        """Return the one answer whose request begins so.

        Raises:
            ConfigurationError: SB-103, none does, or several.
            IntegrityError: SB-405, its record cannot be read.
        """
        wanted = name.removeprefix("sha256:")
        if not re.fullmatch(r"[0-9a-f]{4,64}", wanted):
            raise ConfigurationError("SB-103", "An answer is named by 4 or more hexadecimal digits")
        found = [h for h in self.all() if h.request.removeprefix("sha256:").startswith(wanted)]
        lost = [name for name in self.broken() if name.startswith(wanted)]
        if lost and not found:
            raise IntegrityError(
                "SB-405", f"The record {lost[0]} in the outbox cannot be read", _LOST
            )
        if len(found) != 1:
            raise ConfigurationError(
                "SB-103",
                f"{len(found)} answers in the outbox begin with {wanted}",
                "See `solblom node outbox list`",
            )
        return found[0]

    def write(self, held: HeldAnswer) -> None:
        """Write a record, whole or not at all, and synced."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(self._path(held.request), held.payload())

    def _path(self, request: str) -> Path:
        return self.folder / f"{request.removeprefix('sha256:')}.json"


def held_answer(
    work: Work,
    answer: Answer,
    receipt: Receipt,
    *,
    receipt_digest: str,
    sealed_bytes: int,
    delta: float,
    destination: str,
    now: dt.datetime,
) -> HeldAnswer:
    """Describe an answer for the person who decides about it."""
    masked = work.approval.document.secure_sum is not None
    tensors = work.model.layout.to_json() if work.model and receipt.kind == "train" else []
    norm, largest = (None, None) if masked else _sizes(answer, is_counts=receipt.kind != "train")
    return HeldAnswer(
        schema="solblom.held-answer/1",
        status="waiting",
        request=work.request.digest,
        work=work.digest,
        order=work.order.digest,
        study=receipt.study,
        run=receipt.run,
        kind=receipt.kind,
        round=receipt.round,
        update=receipt.update,
        receipt=receipt_digest,
        size_bytes=len(answer.data),
        sealed_bytes=sealed_bytes,
        tensors=list(tensors),
        norm=norm,
        largest=largest,
        event=receipt.event,
        epsilon=format_epsilon(patient_epsilon([work.request.event], delta)),
        outside_epsilon=[str(name) for name in answer.named],
        patients=receipt.patients,
        destination=destination,
        made=timestamp(now),
    )


def _sizes(answer: Answer, *, is_counts: bool) -> tuple[str | None, str | None]:
    """Return norm and largest absolute value of what leaves, in four digits."""
    if is_counts:
        return None, None
    values = np.frombuffer(answer.data, dtype="<f4").astype(np.float64)
    norm = math.sqrt(float(np.dot(values, values)))
    return f"{norm:.4g}", f"{float(np.abs(values).max(initial=0.0)):.4g}"


def release(
    config: NodeConfig, keys: NodeKeys, log: DecisionLog, name: str, *, by: str, now: dt.datetime
) -> HeldAnswer:
    """Let the coordinator have an answer when it asks again.

    Approval, end of the study and the consent source are looked at now; the vault looks at all of them,
    and at each patient, once more before the bytes leave.

    Raises:
        RefusedError: the approval was withdrawn, the study has ended, it was decided about already, or its
            bytes are gone.
        DataError: SB-308, the consent source is stale.
    """
    outbox, held = _waiting(config, name)
    approval = read_approval(config, keys, held.study)
    if now.date() > approval.document.study.study.ends:
        raise RefusedError("SB-206", f"The study ended on {approval.document.study.study.ends}")
    _check_there(config, held)
    read_consent_now(config, now=now)
    return _decide(outbox, held, log, "released", by=by, now=now)


def _check_there(config: NodeConfig, held: HeldAnswer) -> None:
    """Refuse to release what is no longer there: a later round erases the replies of earlier ones.

    A charge that is not spent yet means a crash before the reply was stored: it is made anew, and waits again.

    Raises:
        RefusedError: SB-205.
    """
    state = VaultState(config.state / STATE_FILE)
    try:
        coordinator = PublicKeys.read(config.path(config.coordinator.key))
        stored = Store(state).stored_reply(held.request, recipient=coordinator.sealing)
        charge = open_ledger(config, state).find(held.request)
    finally:
        state.close()
    if stored is not None and stored.sealed is not None and stored.work == held.work:
        return
    if stored is None and charge is not None and charge.status != "spent":
        return
    raise RefusedError(
        "SB-205",
        f"The bytes of {held.kind} {held.round} of {held.run} are gone, so nothing could leave",
        "A later round was answered since, the file was lost, or it is sealed to a coordinator's key of before. "
        "Reject it: it leaves the list",
    )


def reject(
    config: NodeConfig, log: DecisionLog, name: str, *, state: VaultState, by: str, now: dt.datetime
) -> HeldAnswer:
    """Erase an answer for good; its charge stays.

    Raises:
        RefusedError: SB-205, it was decided about already.
    """
    outbox, held = _waiting(config, name)
    decided = _decide(outbox, held, log, "rejected", by=by, now=now)
    Store(state).erase_reply(held.request)  # a crash before leaves bytes that nobody can get
    return decided


def _waiting(config: NodeConfig, name: str) -> tuple[Outbox, HeldAnswer]:
    outbox = Outbox.of(config)
    held = outbox.named(name)
    if held.status != "waiting":
        raise RefusedError("SB-205", f"It was {held.status} at {held.decided} by {held.by}")
    return outbox, held


def _decide(
    outbox: Outbox, held: HeldAnswer, log: DecisionLog, status: Status, *, by: str, now: dt.datetime
) -> HeldAnswer:
    event: Literal["manual-release", "manual-reject"] = (
        "manual-release" if status == "released" else "manual-reject"
    )
    decision = Decision(
        event,
        study=held.study,
        run=held.run,
        kind=held.kind,
        round=held.round,
        order=held.order,
        request=held.request,
        work=held.work,
        receipt=held.receipt,
        by=by,
        size=held.size_bytes,
        to=held.destination,
    )
    log.append(decision, now=now)  # first: what is not logged does not happen
    decided = held.model_copy(update={"status": status, "decided": timestamp(now), "by": by})
    outbox.write(decided)
    return decided
