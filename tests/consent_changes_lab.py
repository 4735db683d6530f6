"""Bundles that change, each read with what is known of the last one and from its first byte to its last."""

import datetime as dt
import json
from typing import Any

from consent_lab import RESEARCH, SYSTEM, Resource, consent, patient
from lab import NOW
from solblom_client.consent.rules import AgeRules, Reason, decide
from solblom_client.consent.sources.fhir_bundle import FhirBundle, read_bundle
from solblom_client.consent.sources.fhir_consent import FhirSettings
from solblom_client.consent.sources.record import ConsentRecord, Snapshot
from solblom_protocol.errors import DataError

SETTINGS = [RESEARCH, FhirSettings(RESEARCH.purposes, SYSTEM), FhirSettings(frozenset(["TREAT"]))]
TIMES = [NOW, NOW + dt.timedelta(days=365 * 5)]
AGES = [AgeRules(), AgeRules("keep", 18, 18)]
HERE = "https://here.example/fhir"


def text(resource: Resource, **beside: Any) -> str:
    return json.dumps({**beside, "resource": resource}, ensure_ascii=False)


def whole(entries: list[str], *, between: str = ", ", head: str = "") -> bytes:
    start = '{"resourceType": "Bundle", "type": "collection", ' + head + '"entry": ['
    return (start + between.join(entries) + "]}").encode()


def by_patient(snapshot: Snapshot) -> dict[str, list[ConsentRecord]]:
    found: dict[str, list[ConsentRecord]] = {}
    for record in snapshot.records:
        found.setdefault(record.patient, []).append(record)
    return found


def who_and_why(snapshot: Snapshot) -> list[tuple[set[str], dict[str, Reason]]]:
    return [decide(snapshot, ages, now=now) for ages in AGES for now in TIMES]


def attempt(
    data: bytes, with_settings: FhirSettings, before: FhirBundle | None
) -> FhirBundle | str:
    try:
        return read_bundle(data, with_settings, before)
    except DataError as error:
        if error.code != "SB-308":
            raise
        return error.code


def in_both_ways(
    data: bytes, before: FhirBundle | None, with_settings: FhirSettings = RESEARCH
) -> FhirBundle | None:
    """Return what a bundle says, after it has been seen that both ways say it; None: it stops the round."""
    scratch, again = (attempt(data, with_settings, known) for known in (None, before))
    if isinstance(scratch, str) or isinstance(again, str):
        assert scratch == again
        return None
    one, other = scratch.snapshot, again.snapshot
    assert by_patient(one) == by_patient(other)
    assert (one.people, one.doubtful, one.made) == (other.people, other.doubtful, other.made)
    assert who_and_why(one) == who_and_why(other)
    kept = again._entries
    for column in ("starts", "ends", "said", "keys", "kinds", "matches", "consents", "patients"):
        assert getattr(scratch._entries, column) == getattr(kept, column)
    return again


def allowed(bundle: FhirBundle | None) -> set[str]:
    assert bundle is not None
    return decide(bundle.snapshot, AgeRules(), now=NOW)[0]


PEOPLE = ["ola", "kari", "per", "lise", "nils", "ase", "jon", "eva"]
CALLED = [{"name": "Åse \U0001f600"}]
USUAL = [text(each) for who in PEOPLE for each in (patient(who, contact=CALLED), consent(who))]
MANY = [text(each) for n in range(300) for each in (patient(f"p{n}"), consent(f"p{n}"))]
NEW = [text(each) for each in (patient("new"), consent("new"))]
NO = text(consent("ola", status="inactive"))


def usual() -> FhirBundle:
    found = in_both_ways(whole(USUAL), None)
    assert allowed(found) == set(PEOPLE)
    assert found is not None
    return found
