"""Who is in the training set now: consent joined at this moment, test patients kept apart."""

import datetime as dt
from dataclasses import dataclass

from solblom_client.consent import ConsentState, read_consent
from solblom_client.keys import NodeKeys, is_test_patient
from solblom_client.policy import NodeConfig
from solblom_models.patient_id import check_ids, patient_id
from solblom_models.task import Units
from solblom_protocol.study import StudyDocument
from solblom_verify.canonical import canonical_json, digest


@dataclass(frozen=True)
class Cohort:
    """The hospital's patients for one piece of work. Nothing of it leaves but keyed digests and a band."""

    training: Units
    test: Units
    everybody: Units
    excluded: int
    consent: ConsentState

    def row_bytes(self, units: Units) -> bytes:
        """Return ids and rows of these patients as bytes: input of a keyed digest."""
        rows = [
            [patient, digest(units.row_bytes(index))] for index, patient in enumerate(units.ids)
        ]
        return canonical_json(sorted(rows))

    def consent_bytes(self, units: Units) -> bytes:
        """Return the consent state of these patients as bytes: input of a keyed digest."""
        return self.consent.record_bytes(units.ids)


def read_consent_now(config: NodeConfig, *, now: dt.datetime) -> ConsentState:
    """Return the consent state of this moment.

    Raises:
        DataError: SB-308.
    """
    return read_consent(
        config.path(config.consent.source),
        rule=config.consent.rule,
        max_age_hours=config.consent.max_age_hours,
        now=now,
    )


def join_cohort(
    config: NodeConfig,
    keys: NodeKeys,
    document: StudyDocument,
    units: Units,
    *,
    now: dt.datetime,
) -> Cohort:
    """Return the patients who may be used now, split by HMAC of their own id (privacy.md rule 4).

    Raises:
        DataError: SB-302 or SB-304, a patient without an id or with two; SB-308.
    """
    check_ids(units.ids)  # whatever the task read: here ids meet consents
    ids = [patient_id(text) for text in units.ids]
    consent = read_consent_now(config, now=now)
    # Sorted by id, so that the order of rows in the source changes nothing.
    order = sorted(range(len(ids)), key=lambda index: ids[index])
    allowed = [index for index in order if consent.includes(ids[index])]
    fraction = document.study.evaluation.split.test_fraction
    is_test = [is_test_patient(keys.split, ids[index], fraction) for index in allowed]
    return Cohort(
        training=units.select([i for i, test in zip(allowed, is_test, strict=True) if not test]),
        test=units.select([i for i, test in zip(allowed, is_test, strict=True) if test]),
        everybody=units.select(allowed),
        excluded=len(units.ids) - len(allowed),
        consent=consent,
    )
