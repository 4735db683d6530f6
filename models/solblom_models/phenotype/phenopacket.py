"""Cases from GA4GH Phenopackets v2: what is known of one patient, in the ontology's current terms.

A case needs a subject, one disease (unless it is only to be predicted) and a usable HPO term. The disease is the
diagnosis of an interpretation, else one of `diseases` that is not excluded. The publication is the first
PMID in `metaData.externalReferences`. A Family message gives its proband. Both spellings of protobuf's JSON
are read: `phenotypicFeatures` and `phenotypic_features`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from solblom_models.patient_id import patient_id
from solblom_models.phenotype.ages import age_years
from solblom_models.phenotype.documents import (
    MAX_DOCUMENT_BYTES,
    PatientRegister,
    json_object,
    raw_documents,
)
from solblom_models.phenotype.ontology import Ontology, Resolved
from solblom_models.phenotype.reading import Reading, Reason, Tally

MAX_FEATURES = 10_000  # the longest of 8,378 published cases has 192
_VERSION = re.compile(r"2(?:\.[0-9]+){0,3}")
_TAG = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_NOT_SOLVED = frozenset({"IN_PROGRESS", "UNSOLVED", 1, 4})
# Spellings of one vocabulary that hospitals and registries use.
_PREFIXES = {"ORPHANET": "ORPHA", "MIM": "OMIM"}
_RESOLVED = {
    Resolved.UNKNOWN: Reason.UNKNOWN_TERM,
    Resolved.OBSOLETE: Reason.OBSOLETE_TERM,
    Resolved.REPLACED: Reason.REPLACED_TERM,
    Resolved.ALTERNATIVE: Reason.ALTERNATIVE_TERM,
}
_Json = Mapping[str, Any]


class Sex(StrEnum):
    """The subject's sex, as GA4GH names it."""

    UNKNOWN = "UNKNOWN_SEX"
    FEMALE = "FEMALE"
    MALE = "MALE"
    OTHER = "OTHER_SEX"


_SEXES: dict[object, Sex] = {sex.value: sex for sex in Sex} | dict(enumerate(Sex))


@dataclass(frozen=True)
class Case:
    """One patient. Every attribute stays inside the hospital.

    Attributes:
        id: of the phenopacket.
        patient: the privacy unit: `subject.id`, with the publication before it under that scope.
        observed: current terms below the root, sorted, without their ancestors.
        excluded: terms that somebody looked for and did not find, sorted.
        disease: the label, in the study's spelling; None where the case is only to be predicted.
    """

    id: str
    patient: str
    family: str | None
    publication: str | None
    observed: tuple[str, ...]
    excluded: tuple[str, ...]
    disease: str | None
    sex: Sex
    age_years: float | None


@dataclass(frozen=True)
class CaseRules:
    """What of a phenopacket a study takes.

    Attributes:
        labels: any disease id that may stand in a case, and the study's id for it; None takes all as they are.
        patient_scope: `subject` where a subject id names one patient, as within a hospital; `publication` where
            each paper counts its own patients (142 of the published cases are called "Patient 1").
        need_disease: False for prediction.
    """

    labels: Mapping[str, str] | None = field(default=None, repr=False)
    patient_scope: Literal["subject", "publication"] = "subject"
    need_disease: bool = True
    max_document_bytes: int = MAX_DOCUMENT_BYTES
    max_features: int = MAX_FEATURES


DEFAULT_RULES = CaseRules()


def read_cases(
    path: Path, ontology: Ontology, reading: Reading, *, rules: CaseRules = DEFAULT_RULES
) -> Iterator[Case]:
    """Yield the cases of a JSON file, of JSON lines (`.jsonl`, `.ndjson`, also `.gz`) or of a folder of JSON files.

    Holds one document at a time. `reading` counts what was not used; it is whole after the last case.

    Raises:
        DataError: SB-307 nothing can be read at the path, or a compressed file is damaged.
    """
    with PatientRegister() as register:
        for place, data in raw_documents(path, reading, max_bytes=rules.max_document_bytes):
            reading.documents += 1
            packet = data if isinstance(data, Reason) else json_object(data)
            for person, family in _relatives(packet, rules):
                register.name(person, family)
            found, tally = _read(packet, ontology, rules)
            if isinstance(found, Case) and not register.is_new(found.patient, found.family):
                reading.note(Reason.SAME_PATIENT, place)
                if not register.is_of(found.patient, found.family):
                    reading.note(Reason.SEVERAL_FAMILIES, place)
                continue
            tally.add_to(reading, place)
            if isinstance(found, Reason):
                reading.note(found, place)
                continue
            reading.cases += 1
            yield found
        if several := register.named_otherwise():  # known only when all documents were seen
            reading.counts[Reason.SEVERAL_FAMILIES] += several


def _read(
    packet: _Json | Reason, ontology: Ontology, rules: CaseRules
) -> tuple[Case | Reason, Tally]:
    tally = Tally()
    if isinstance(packet, Reason):
        return packet, tally
    return case_of(packet, ontology, tally, rules=rules), tally


def case_of(
    packet: _Json, ontology: Ontology, tally: Tally, *, rules: CaseRules = DEFAULT_RULES
) -> Case | Reason:
    """Return the case in a phenopacket, or why there is none; `tally` counts the parts that were not used."""
    whole, packet = packet, _dict(packet.get("proband", packet))
    meta = _dict(_get(packet, "metaData") or _get(whole, "metaData"))
    parts = ("subject", "phenotypicFeatures", "metaData")
    if "members" in packet or not any(_get(packet, name) for name in parts):
        return Reason.NOT_PHENOPACKET
    version = _text(_get(meta, "phenopacketSchemaVersion"))
    if version is None or not _VERSION.fullmatch(version):
        return Reason.SCHEMA_VERSION
    subject = _dict(packet.get("subject"))
    publication = _publication(meta, tally)
    patient = _patient(subject, publication, rules)
    if patient is None:
        return Reason.NO_PATIENT
    disease = _disease(packet, tally, rules)
    if isinstance(disease, Reason) and rules.need_disease:
        return disease
    features = _list(_get(packet, "phenotypicFeatures"))
    if len(features) > rules.max_features:
        return Reason.TOO_MANY_FEATURES
    terms = _terms(features, ontology, tally)
    if not any(terms):
        return Reason.NO_TERM
    _note_details(whole, meta, terms, ontology, tally)
    return Case(
        id=_text(packet.get("id")) or "",
        patient=patient,
        family=_family(whole, tally),
        publication=publication,
        observed=terms[0],
        excluded=terms[1],
        disease=None if isinstance(disease, Reason) else disease,
        sex=_sex(subject, tally),
        age_years=_age(subject, tally),
    )


def disease_id(text: str) -> str:
    """Return a disease id in one spelling: `Orphanet:558` is `ORPHA:558`, `omim:154700` is `OMIM:154700`."""
    prefix, colon, number = text.strip().partition(":")
    prefix = prefix.upper()
    return f"{_PREFIXES.get(prefix, prefix)}{colon}{number.strip()}"


def _get(value: _Json, name: str) -> Any:
    """Return a field by its JSON name, or by the name in the protobuf file."""
    if name in value:
        return value[name]
    return value.get(re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", name))


def _dict(value: object) -> _Json:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str | None:
    return value.strip() or None if isinstance(value, str) else None


def _publication(meta: _Json, tally: Tally) -> str | None:
    named = [_text(_dict(e).get("id")) for e in _list(_get(meta, "externalReferences"))]
    found = list(dict.fromkeys(n.upper() for n in named if n and n.upper().startswith("PMID:")))
    if len(found) > 1:
        tally.counts[Reason.SEVERAL_PUBLICATIONS] += 1
    return found[0] if found else None


def _patient(subject: _Json, publication: str | None, rules: CaseRules) -> str | None:
    named = _text(subject.get("id"))
    if named is None:
        return None
    if rules.patient_scope == "publication" and publication is not None:
        named = f"{publication} {named}"
    return patient_id(named) or None


def _family(whole: _Json, tally: Tally) -> str | None:
    """Return the id of a Family message, or the pedigree's own name for it where it has one name."""
    if "proband" not in whole:
        return None
    persons = _list(_dict(whole.get("pedigree")).get("persons"))
    named = {_text(_get(_dict(person), "familyId")) for person in persons} - {None}
    if len(named) > 1:
        tally.counts[Reason.SEVERAL_FAMILIES] += 1
    return named.pop() if len(named) == 1 else _text(whole.get("id"))


def _relatives(whole: _Json | Reason, rules: CaseRules) -> list[tuple[str, str]]:
    """Return whom a Family message names beside its proband, and of which family; whether or not it gives a case.

    They may be patients by documents of their own: of another family there, or of none, they are of several.
    """
    family = None if isinstance(whole, Reason) else _family(whole, Tally())
    if isinstance(whole, Reason) or family is None:
        return []
    proband = _dict(whole.get("proband"))
    publication = _publication(_dict(_get(proband, "metaData") or _get(whole, "metaData")), Tally())
    found = []
    for person in map(_dict, _list(_dict(whole.get("pedigree")).get("persons"))):
        found.append(_patient({"id": _get(person, "individualId")}, publication, rules))
    for packet in map(_dict, _list(whole.get("relatives"))):
        own = _publication(_dict(_get(packet, "metaData")), Tally()) or publication
        found.append(_patient(_dict(packet.get("subject")), own, rules))
    case = _patient(_dict(proband.get("subject")), publication, rules)
    return [(person, family) for person in found if person is not None and person != case]


def _disease(packet: _Json, tally: Tally, rules: CaseRules) -> str | Reason:
    found: list[str | None] = []
    for interpretation in map(_dict, _list(packet.get("interpretations"))):
        named = _dict(_dict(interpretation.get("diagnosis")).get("disease")).get("id")
        status = _get(interpretation, "progressStatus")
        # A diagnosis that is still open is no label.
        if isinstance(status, str | int) and status in _NOT_SOLVED:
            tally.counts[Reason.UNSOLVED] += 1
        else:
            found.append(_text(named))
    if not any(found):
        stated = (d for d in map(_dict, _list(packet.get("diseases"))) if not d.get("excluded"))
        found = [_text(_dict(disease.get("term")).get("id")) for disease in stated]
    named_ids = {disease_id(text) for text in found if text}
    if not named_ids:
        return Reason.NO_DISEASE
    if rules.labels is not None:
        # Two ids of one label are one disease; one inside and one outside the study are two.
        named_ids = {rules.labels.get(named, "") for named in named_ids}
    if len(named_ids) > 1:
        return Reason.SEVERAL_DISEASES
    return named_ids.pop() or Reason.UNMAPPED_DISEASE


def _terms(
    features: list[Any], ontology: Ontology, tally: Tally
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    tally.features += len(features)
    channels: tuple[set[str], set[str]] = (set(), set())
    for feature in features:
        found = _feature(feature, ontology, tally)
        if isinstance(found, Reason):
            tally.counts[found] += 1
            continue
        term, excluded = found
        if term in channels[excluded]:
            tally.counts[Reason.REPEATED_TERM] += 1
        channels[excluded].add(term)
    observed, ruled_out = channels
    both = observed & ruled_out
    if both:
        tally.counts[Reason.CONTRADICTORY] += 2 * len(both)
        observed -= both
        ruled_out -= both
    implied = ruled_out & {a for term in observed for a in ontology.ancestors(term)}
    if implied:
        # What was seen is the more certain: to see a focal seizure rules out that there was no seizure.
        tally.counts[Reason.EXCLUDED_ABOVE] += len(implied)
        ruled_out -= implied
    tally.used_features += len(observed) + len(ruled_out)
    return tuple(sorted(observed)), tuple(sorted(ruled_out))


def _feature(feature: object, ontology: Ontology, tally: Tally) -> tuple[str, bool] | Reason:
    """Return a current term below the root and whether it is excluded, or why there is none."""
    value = _dict(feature)
    term = _text(_dict(value.get("type")).get("id"))
    excluded = value.get("excluded")
    if excluded is None:  # protobuf's JSON leaves false out, or writes null
        excluded = False
    if term is None or not isinstance(excluded, bool):
        return Reason.UNREADABLE_FEATURE
    if term not in ontology.names:
        term = term.upper()
        if not term.startswith("HP:"):
            return Reason.OTHER_VOCABULARY
        resolution = ontology.resolve(term)
        if resolution.id is None:
            return _RESOLVED[resolution.reason]
        if resolution.reason in _RESOLVED:
            tally.counts[_RESOLVED[resolution.reason]] += 1
        term = resolution.id
    return (term, excluded) if ontology.ancestors(term) else Reason.OUTSIDE_ROOT


def _note_details(
    whole: _Json,
    meta: _Json,
    terms: tuple[tuple[str, ...], tuple[str, ...]],
    ontology: Ontology,
    tally: Tally,
) -> None:
    if not terms[0]:
        tally.counts[Reason.NO_OBSERVED_TERM] += 1
    relatives = len(_list(whole.get("relatives")))
    if relatives:
        tally.counts[Reason.RELATIVE] += relatives
    versions = [
        _text(resource.get("version")) or ""
        for resource in map(_dict, _list(meta.get("resources")))
        if _text(_get(resource, "namespacePrefix")) == "HP" or _text(resource.get("id")) == "hp"
    ]
    tags = {match[0] if (match := _TAG.search(text)) else text for text in versions}
    if not tags - {""}:
        tally.counts[Reason.NO_RELEASE] += 1
    elif tags != {ontology.release}:
        tally.counts[Reason.OTHER_RELEASE] += 1


def _sex(subject: _Json, tally: Tally) -> Sex:
    value = subject.get("sex")
    if value is None:
        return Sex.UNKNOWN
    if isinstance(value, str | int) and not isinstance(value, bool) and value in _SEXES:
        return _SEXES[value]
    tally.counts[Reason.UNREADABLE_SEX] += 1
    return Sex.UNKNOWN


def _age(subject: _Json, tally: Tally) -> float | None:
    element = _get(subject, "timeAtLastEncounter")
    if element is None:
        return None
    found = age_years(_dict(element), born=_get(subject, "dateOfBirth"))
    if found is None:
        tally.counts[Reason.UNREADABLE_AGE] += 1
    return found
