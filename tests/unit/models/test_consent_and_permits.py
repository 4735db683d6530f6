"""consent/summary.json and permits/: what the coordinator holds, in bands and keyed digests, and what it does not."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from artefact_lab import contents_of, write
from lab import NOW, study_document
from solblom_models.artefact import ArtefactContents
from solblom_models.artefact_files.consent import consent_summary
from solblom_models.artefact_files.permits import INDEX, NONE_HELD, permit_files
from solblom_protocol.messages.result import BANDS
from solblom_protocol.permits.issuer import Issuer
from solblom_protocol.permits.issuing import Terms, permit_for
from solblom_protocol.permits.permit import SignedPermit, open_permit, sign_permit
from solblom_protocol.studies.study import StudyDocument

STUDY = study_document()
ISSUER_KEY = Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32)
ISSUER = Issuer.of("https://hdab.example.no", ISSUER_KEY.public_key())
JTI = "permit-of-the-laboratory"


@pytest.fixture
def contents() -> ArtefactContents:
    return contents_of(STUDY)


def permit(
    document: StudyDocument = STUDY,
    *,
    sites: tuple[str, ...] = ("north", "elsewhere"),
    jti: str = JTI,
    days: int = 30,
) -> SignedPermit:
    terms = Terms(sites=sites, days=days, rounds=6, duo=("DUO:0000042",))
    claims = permit_for(document, terms, issuer=ISSUER.name, jti=jti, now=int(NOW.timestamp()))
    return open_permit(sign_permit(claims, ISSUER_KEY), {ISSUER.key_id: ISSUER})


def test_consent_is_told_by_hospital_and_round(contents: ArtefactContents) -> None:
    sites = consent_summary(contents)["sites"]
    receipt = contents.rounds[0].receipts["north"][1]
    assert set(sites) == {"north", "south"}
    assert sites["north"]["rounds"] == [
        {
            "round": 1,
            "patients": "50-99",
            "consent": receipt.consent,
            "cohort": receipt.cohort,
        }
    ]


def test_rule_and_source_are_not_made_up(contents: ArtefactContents) -> None:
    summary = consent_summary(contents)
    assert {site["rule"] for site in summary["sites"].values()} == {None}
    assert {site["source"] for site in summary["sites"].values()} == {None}
    assert any("no receipt carries them" in line for line in summary["not_told"])


def test_consent_holds_bands_and_digests_only(contents: ArtefactContents) -> None:
    for site in consent_summary(contents)["sites"].values():
        for entry in site["rounds"]:
            assert entry["patients"] in BANDS
            assert re.fullmatch(r"sha256:[0-9a-f]{64}", entry["consent"])
            assert re.fullmatch(r"sha256:[0-9a-f]{64}", entry["cohort"])


def test_an_exact_count_is_refused(contents: ArtefactContents) -> None:
    envelope, receipt = contents.rounds[0].receipts["north"]
    exact = receipt.model_copy(update={"patients": "57"})
    record = dataclasses.replace(contents.rounds[0], receipts={"north": (envelope, exact)})
    with pytest.raises(ValueError, match="bands only"):
        consent_summary(dataclasses.replace(contents, rounds=[record]))


def test_a_silent_hospital_has_no_round(contents: ArtefactContents) -> None:
    record = contents.rounds[0]
    only = dataclasses.replace(record, receipts={"north": record.receipts["north"]})
    summary = consent_summary(dataclasses.replace(contents, rounds=[only]))
    assert summary["sites"]["south"]["rounds"] == []


def test_without_a_permit_every_hospital_is_said_to_lack_one(contents: ArtefactContents) -> None:
    files = permit_files(contents)
    assert list(files) == [INDEX]
    assert json.loads(files[INDEX])["missing"] == {"north": NONE_HELD, "south": NONE_HELD}


def test_a_permit_is_kept_as_it_was_signed(contents: ArtefactContents) -> None:
    held = permit()
    files = permit_files(dataclasses.replace(contents, permits=(held,)))
    index = json.loads(files[INDEX])
    assert files[f"permits/{JTI}.jws"] == held.token
    assert open_permit(files[f"permits/{JTI}.jws"], {ISSUER.key_id: ISSUER}) == held
    (entry,) = index["permits"]
    assert entry["issuer"] == {"name": ISSUER.name, "public_key": ISSUER.pem}
    assert entry["sites"] == ["north"]  # those of the run only
    assert set(index["missing"]) == {"south"}


def test_a_permit_of_another_study_is_left_out(contents: ArtefactContents) -> None:
    other = permit(study_document(training={"rounds": 2}))
    assert list(permit_files(dataclasses.replace(contents, permits=(other,)))) == [INDEX]


def test_two_permits_of_one_number_are_both_kept(contents: ArtefactContents) -> None:
    both = (permit(), permit(days=60))
    files = permit_files(dataclasses.replace(contents, permits=both))
    assert len(files) == 3
    assert {files[name] for name in files if name != INDEX} == {p.token for p in both}


def test_a_permit_given_twice_stands_once(contents: ArtefactContents) -> None:
    files = permit_files(dataclasses.replace(contents, permits=(permit(), permit())))
    assert len(files) == 2


def test_permits_and_consent_do_not_change_the_models_name(
    contents: ArtefactContents, tmp_path: Path
) -> None:
    name = write(tmp_path / "a", contents)
    assert write(tmp_path / "b", dataclasses.replace(contents, permits=(permit(),))) == name
