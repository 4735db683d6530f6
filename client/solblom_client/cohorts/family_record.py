"""Who was of which family when a study by family first met them: a family that moves is no unit (docs/adr/0021).

One patient who changes families between two rounds makes two families of one: what was promised to each would then
hold for neither. So the first answer stands for the whole study, as codes under the hospital's split key, and other
data refuse. Between studies it may change: the ledger counts per patient.
"""

import hmac

from solblom_client.cohorts.families import FAMILY, group_ids
from solblom_client.state import VaultState
from solblom_models.patient_id import patient_id
from solblom_models.task import Units
from solblom_protocol.errors import DataError
from solblom_verify.wording import counted

_TABLE = (
    "CREATE TABLE IF NOT EXISTS families ("
    " study TEXT NOT NULL, patient BLOB NOT NULL, family BLOB NOT NULL, PRIMARY KEY (study, patient)"
    ") STRICT, WITHOUT ROWID"
)


def check_same_families(state: VaultState, split_key: bytes, study: str, units: Units) -> None:
    """Refuse patients who were of another family when this study met them first; reads only.

    Raises:
        DataError: SB-310 the data set names no families; SB-314 another one than then, or that is forgotten.
    """
    _check(_known(state, study), _codes(split_key, study, units))


def keep_families(state: VaultState, split_key: bytes, study: str, units: Units) -> None:
    """Put on disk of which family each patient is, the first time; call it before anything is made of them.

    Raises:
        DataError: as `check_same_families`.
        IntegrityError: SB-402, the state file does not take it.
    """
    found, known = _codes(split_key, study, units), _known(state, study)
    _check(known, found)
    new = [patient for patient in found if patient not in known]
    if not new:
        return
    with state.transaction():
        state.execute(_TABLE, ())
        for patient in new:
            state.execute("INSERT INTO families VALUES (?, ?, ?)", (study, patient, found[patient]))


def has_families(state: VaultState) -> bool:
    """Tell whether any study has families on record."""
    return bool(
        state.query("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'families'")
    )


def _check(known: dict[bytes, bytes], found: dict[bytes, bytes]) -> None:
    moved = sum(1 for patient, family in found.items() if known.get(patient, family) != family)
    if moved:
        raise DataError(
            "SB-314",
            f"{counted(moved, 'patient is', 'patients are')} of another family than when the study began; "
            "what it promises to families holds while these stay as they are",
            "Let the study end as it began, or ask the researcher for a new one",
        )


def _known(state: VaultState, study: str) -> dict[bytes, bytes]:
    """Return each patient's family as this study met them; none before its first work.

    Raises:
        DataError: SB-314, the study has worked on families that are forgotten since: nobody could tell a change.
    """
    rows = (
        state.query("SELECT patient, family FROM families WHERE study = ?", (study,))
        if has_families(state)
        else []
    )
    # Work is bound after families are on disk, and a charge is never removed.
    if not rows and state.query(
        "SELECT 1 FROM events WHERE study = ? AND work IS NOT NULL LIMIT 1", (study,)
    ):
        raise DataError(
            "SB-314",
            "The study has been worked on, and who was of which family then is forgotten (cohort_record_years)",
            "Ask the researcher for a new study, or remember cohorts for longer than a study runs",
        )
    return {p: f for p, f in rows if isinstance(p, bytes) and isinstance(f, bytes)}


def _codes(split_key: bytes, study: str, units: Units) -> dict[bytes, bytes]:
    """Return each patient's code and the family's, 16 bytes; of another study they are others."""
    ids = [patient_id(text) for text in units.ids]

    def code(text: str) -> bytes:
        data = f"family record\0{study}\0{text}".encode("utf-8", "surrogatepass")
        return hmac.digest(split_key, data, "sha256")[:16]

    return {code(p): code(f) for p, f in zip(ids, group_ids(units, ids, FAMILY), strict=True)}
