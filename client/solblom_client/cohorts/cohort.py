"""Who is in the training set now: consent joined at this moment, test patients kept apart."""

import datetime as dt
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from solblom_client.cohorts.families import (
    Families,
    check_families_are_clear,
    group_ids,
    one_of_each,
)
from solblom_client.consent.join import ConsentState, read_consent
from solblom_client.consent.rules import AgeRules
from solblom_client.consent.sources.fhir_consent import FhirSettings
from solblom_client.keys import NodeKeys, is_test_patient
from solblom_client.policy import NodeConfig
from solblom_models.patient_id import check_ids, patient_id
from solblom_models.task import GroupedUnits, NotedUnits, Units, has_one_label
from solblom_protocol.errors import DataError
from solblom_protocol.messages.order import Order
from solblom_protocol.studies.study import StudyDocument
from solblom_verify.canonical import canonical_json, digest
from solblom_verify.wording import counted


@dataclass(frozen=True)
class Cohort:
    """The hospital's patients for one piece of work. Nothing of it leaves but keyed digests and a band."""

    training: Units
    test: Units
    everybody: Units
    counted_test: Units  # whom a released evaluation counts: all, or one of each family where that is the unit
    counted: Units  # whom Table 1 counts, likewise
    excluded: int
    consent: ConsentState
    notes: dict[str, int] = field(default_factory=dict)  # what reading the data counted

    def row_bytes(self, units: Units) -> bytes:
        """Return ids and rows of these patients as bytes: input of a keyed digest."""
        return rows_as_bytes(units)

    def consent_bytes(self, units: Units) -> bytes:
        """Return the consent state of these patients as bytes: input of a keyed digest."""
        return self.consent.record_bytes(units.ids)


def rows_as_bytes(units: Units) -> bytes:
    """Return ids and row digests of these patients as bytes, in the order of ids."""
    rows = [[patient, digest(units.row_bytes(index))] for index, patient in enumerate(units.ids)]
    return canonical_json(sorted(rows))


def read_consent_now(config: NodeConfig, *, now: dt.datetime) -> ConsentState:
    """Return the consent state of this moment.

    Raises:
        DataError: SB-308.
    """
    table = config.consent
    return read_consent(
        config.path(table.source),
        rule=table.rule,
        max_age_hours=table.max_age_hours,
        now=now,
        kind=table.kind,
        fhir=FhirSettings(
            frozenset(table.purpose), table.identifier_system, config.policy.time_zone
        ),
        ages=AgeRules(table.deceased, table.min_age_years, table.guardian_until_age),
    )


def check_consent_holds(config: NodeConfig, units: Units, *, now: dt.datetime) -> None:
    """Refuse to let out what was made of patients one of whom may no longer take part (privacy.md rule 10).

    Raises:
        DataError: SB-308.
    """
    again = read_consent_now(config, now=now)
    if not all(again.includes(patient) for patient in units.ids):
        raise DataError("SB-308", "Consent changed while the order was worked on")


def join_cohort(
    config: NodeConfig,
    keys: NodeKeys,
    document: StudyDocument,
    units: Units,
    *,
    now: dt.datetime,
) -> Cohort:
    """Return the patients who may be used now, split by HMAC of their own id or group (privacy.md rule 4).

    Raises:
        DataError: SB-302 or SB-304, a patient without an id or with two; SB-308; SB-310, the split would put
            patients of one group on both sides, or the data have no such groups.
    """
    check_ids(units.ids)  # whatever the task read: here ids meet consents
    ids = [patient_id(text) for text in units.ids]
    consent = read_consent_now(config, now=now)
    # Sorted by id, so that the order of rows in the source changes nothing.
    order = sorted(range(len(ids)), key=lambda index: ids[index])
    allowed = [index for index in order if consent.includes_spelt(ids[index])]
    split = document.study.evaluation.split
    if document.by_family:
        check_families_are_clear(units)
    named = split_ids(units, ids, split.by)
    is_test = [is_test_patient(keys.split, named[index], split.test_fraction) for index in allowed]
    test = units.select([i for i, test in zip(allowed, is_test, strict=True) if test])
    everybody = units.select(allowed)
    return Cohort(
        training=units.select([i for i, test in zip(allowed, is_test, strict=True) if not test]),
        test=test,
        everybody=everybody,
        counted_test=one_of_each(test, keys.split) if document.by_family else test,
        counted=one_of_each(everybody, keys.split) if document.by_family else everybody,
        excluded=len(units.ids) - len(allowed),
        consent=consent,
        notes=dict(units.notes) if isinstance(units, NotedUnits) else {},
    )


def split_ids(units: Units, ids: Sequence[str], by: str) -> list[str]:
    """Return what decides each patient's side of the split: the own id, or that of the patient's group.

    A patient without a group stands alone. The side depends on the patient's own record either way.

    Raises:
        DataError: SB-310.
    """
    if by == "patient":
        groups = dict(units.groups) if isinstance(units, GroupedUnits) else {}
        for kind, of in sorted(groups.items()):
            sizes = Counter(group for group in of if group is not None)
            shared = sum(size for size in sizes.values() if size > 1)
            if shared:
                raise DataError(
                    "SB-310",
                    f"{counted(shared, 'patient shares', 'patients share')} a {kind} with others; a split by patient "
                    "would train on some and test on the rest, who resemble them",
                    f'Set split = {{ by = "{kind}" }} in the study',
                )
        return list(ids)
    return group_ids(units, ids, by)


def unit_count(units: Units, *, by_family: bool) -> int:
    """Return how many units of privacy these patients are: a minimum of patients is one of families too.

    Raises:
        DataError: SB-310, the data set names no families.
    """
    return len(Families.of(units).members) if by_family else len(units.ids)


def units_of(order: Order, cohort: Cohort, *, least: int, by_family: bool = False) -> Units:
    """Return the patients whom an order of this kind touches.

    Raises:
        DataError: SB-306 fewer than `least`, this node's own threshold; SB-305 all of one label.
    """
    units = {
        "train": cohort.training,
        "evaluate": cohort.counted_test,
        "describe": cohort.counted,
    }[order.header.kind]
    if unit_count(units, by_family=by_family) < least:
        raise DataError("SB-306", "The order's patients are fewer than policy.min_patients")
    if order.header.kind == "train" and has_one_label(units):
        raise DataError("SB-305", "All patients of the training set have the same label")
    return units
