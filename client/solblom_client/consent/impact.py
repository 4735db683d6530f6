"""Which studies, rounds, receipts and model versions used one patient: answered inside the hospital, for that patient.

What a withdrawal cannot undo is said with the answer. Past influence is not removed: it is bounded by the
epsilon that was spent (privacy.md rule 13).
"""

from dataclasses import dataclass

from solblom_client.cohorts.record import FrozenCohort, frozen_cohorts, read_manifest
from solblom_client.state import VaultState
from solblom_models.patient_id import patient_id

CANNOT_BE_UNDONE = {
    "en": (
        "A withdrawal takes the patient out of every round that begins after it, and out of an answer that has not "
        "left yet. It does not take out what models have already learned: updates that left are in the models "
        "listed, and in models made from them. How much anybody can conclude from them about this patient is "
        "bounded by the epsilon of each study; it is not removed. Copies at other places cannot be called back. "
        "Only training anew without the patient would remove the influence; that is a new version."
    ),
    "no": (
        "Når samtykket trekkes, brukes pasientens opplysninger ikke i noen runde som starter etterpå, og ikke i "
        "svar som ennå ikke er sendt. Det modellene allerede har lært, blir ikke borte: oppdateringer som er "
        "sendt, inngår i modellene på listen og i modeller som bygger på dem. Hvor mye noen kan slutte om "
        "pasienten ut fra dem, er begrenset av epsilon i hver studie, men ikke fjernet. Kopier andre steder kan "
        "ikke kalles tilbake. Bare ny trening uten pasienten fjerner påvirkningen, og da blir det en ny versjon."
    ),
}


@dataclass(frozen=True)
class Use:
    """One piece of work in which the patient was.

    Attributes:
        receipt: digest of the signed receipt; None: it was worked on, and nothing left the hospital. Where a person
            releases each answer, one with a receipt may still wait, or have been rejected: the outbox tells.
    """

    study: str
    run: str
    kind: str
    round: int
    receipt: str | None
    recorded_at: str


@dataclass(frozen=True)
class Impact:
    """Where one patient was used.

    Attributes:
        models: digests of model versions known here that the patient's data helped to train.
    """

    uses: tuple[Use, ...]
    models: tuple[str, ...]


def impact(state: VaultState, patient: str) -> Impact:
    """Return every use of a patient that the cohort record knows.

    Raises:
        IntegrityError: SB-402 or SB-407.
    """
    records, wanted = frozen_cohorts(state), patient_id(patient)
    holds: dict[str, bool] = {}  # rounds share manifests; each is read once
    for record in records:
        if record.manifest not in holds:
            holds[record.manifest] = wanted in read_manifest(state, record)
    used = [record for record in records if holds[record.manifest]]
    uses = tuple(
        Use(r.study, r.run, r.kind, r.round, r.receipt, r.recorded_at)
        for r in sorted(used, key=lambda r: (r.study, r.run, r.kind, r.round))
    )
    return Impact(uses, tuple(sorted(_models(records, used))))


def _models(records: list[FrozenCohort], used: list[FrozenCohort]) -> set[str]:
    """Return the models that came after the patient's first round of a run, as later orders named them.

    A node learns of a model when an order starts from it: the newest one may not be known here yet.
    """
    found: set[str] = set()
    first: dict[tuple[str, str], int] = {}
    for use in used:
        if use.kind == "train" and use.receipt is not None:
            run = (use.study, use.run)
            first[run] = min(use.round, first.get(run, use.round))
    for run, number in first.items():
        of_run = [record for record in records if (record.study, record.run) == run]
        before = {r.base_model for r in of_run if r.kind == "train" and r.round <= number}
        found |= {r.base_model for r in of_run if r.kind != "describe"} - before
    return found
