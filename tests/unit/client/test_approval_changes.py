"""What a person sees before saying yes again: every setting that changed, the permit, in Norwegian or English."""

import string
from typing import Any

import pytest

from lab import LabHospital, study_document
from security.observer import Observer
from security.permit_lab import LabIssuer, PermitLab
from solblom_client.approvals.approval import prepare, revoke
from solblom_client.approvals.study_changes import ApprovedBefore, study_changes
from solblom_client.approvals.summary import ApprovalSummary
from solblom_client.approvals.words import LABELS, Lang, all_texts, number_of, printable
from solblom_client.keys import read_node_keys
from solblom_protocol.studies.study import StudyDocument
from solblom_verify.canonical import canonical_json


def summary(hospital: LabHospital, study: StudyDocument, *, lang: Lang = "en") -> ApprovalSummary:
    keys = read_node_keys(hospital.config.state)
    envelope = hospital.sign(study)
    return prepare(hospital.config, keys, envelope, now=hospital.clock(), lang=lang).summary


# --- What has changed


def test_the_first_version_of_a_study_says_that_it_is_the_first(hospital: LabHospital) -> None:
    told = summary(hospital, study_document())
    assert told.changed == ("no version of this study was approved here before",)


def test_a_new_version_shows_every_setting_that_changed_with_old_and_new(
    hospital: LabHospital,
) -> None:
    hospital.approve(study_document())
    hospital.clock.advance(days=2)
    told = summary(
        hospital,
        study_document(training={"rounds": 2}, study={"purpose": "Another"}),
    )
    assert told.changed[0] == "since the version that was approved on 2026-11-22T12:00:00Z:"
    changed = dict(line.split(": ", 1) for line in told.changed[1:])
    assert changed["study.training.rounds"] == "3 -> 2"
    assert changed["study.study.purpose"] == '"Test" -> "Another"'
    assert set(changed) == {"study.training.rounds", "study.study.purpose", "noise_multiplier"}


@pytest.mark.parametrize(
    ("lang", "words"),
    [("en", "your updates with their noise are kept"), ("no", "blir liggende i modellmappen")],
)
def test_a_person_reads_that_updates_are_kept_and_when_that_changes(
    hospital: LabHospital, lang: Lang, words: str
) -> None:
    before = study_document(training={"keep_updates": False})
    assert not any(words in line for line in summary(hospital, before, lang=lang).leaves)
    hospital.approve(before)
    told = summary(hospital, study_document(), lang=lang)
    assert any(words in line for line in told.leaves)
    assert "study.training.keep_updates: false -> true" in told.changed


def test_the_newest_version_is_compared_though_it_was_withdrawn(hospital: LabHospital) -> None:
    hospital.approve(study_document())
    hospital.clock.advance(days=2)
    second = study_document(training={"rounds": 2})
    hospital.approve(second)
    revoke(hospital.config, second.digest)
    told = summary(hospital, study_document())
    assert "2026-11-24" in told.changed[0]
    assert "study.training.rounds: 2 -> 3" in told.changed


def test_the_same_study_again_shows_changed_code_and_nothing_else(
    hospital: LabHospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_document()
    hospital.approve(study)
    assert summary(hospital, study).changed == (
        "nothing since the approval of 2026-11-22T12:00:00Z",
    )
    monkeypatch.setattr(
        "solblom_client.approvals.approval.code_digest", lambda _: "sha256:" + "c" * 64
    )
    told = summary(hospital, study)
    assert len(told.changed) == 2
    assert told.changed[1].endswith("-> sha256:" + "c" * 64)
    assert told.code == "sha256:" + "c" * 64


def test_a_study_of_another_name_is_not_compared(hospital: LabHospital) -> None:
    hospital.approve(study_document())
    told = summary(hospital, study_document(study={"name": "other"}))
    assert told.changed == ("no version of this study was approved here before",)


def changes(old: Any, new: Any) -> dict[str, tuple[str, str]]:
    before = ApprovedBefore.of(canonical_json(old), approved="", code="")
    found = study_changes(before, canonical_json(new), "")
    return {change.path: (change.old, change.new) for change in found}


def test_variables_are_compared_by_name_and_not_by_place() -> None:
    age, dose = {"name": "age", "unit": "a"}, {"name": "dose", "unit": "mg"}
    found = changes({"v": [age, dose]}, {"v": [{"name": "bmi"}, age, dose | {"unit": "g"}]})
    assert found["v.dose.unit"] == ('"mg"', '"g"')
    assert found["v.bmi"] == ("-", '{"name": "bmi"}')
    assert "v.age.unit" not in found


def test_a_changed_order_is_a_change() -> None:
    one, two = {"name": "one"}, {"name": "two"}
    assert changes({"v": [one, two]}, {"v": [two, one]}) == {"v (order)": ("one, two", "two, one")}


def test_true_is_not_one_and_absent_is_not_null() -> None:
    assert changes({"a": True}, {"a": 1}) == {"a": ("true", "1")}
    assert changes({"a": None}, {}) == {"a": ("null", "-")}


def test_a_change_deep_in_a_long_text_is_in_what_is_shown() -> None:
    text = "x" * 3000
    ((old, new),) = changes({"a": text + "keep"}, {"a": text + "sell"}).values()
    assert "keep" in old
    assert "sell" in new
    assert max(len(old), len(new)) < 200


# --- The screen


def test_a_title_cannot_repaint_the_screen(hospital: LabHospital) -> None:
    study = study_document(study={"purpose": "Good\x1b[2J\x1b[1;1Hsigned by: kari \u202egnihton"})
    shown = dict(summary(hospital, study).lines())["purpose"]
    assert shown.isprintable()
    assert "\\u001b[2J" in shown
    assert printable("Ærlig talt, 1 °C") == "Ærlig talt, 1 °C"


# --- Norwegian


def test_a_summary_in_norwegian_has_no_english_label(hospital: LabHospital) -> None:
    told = summary(hospital, study_document(evaluation={"releases": 1}), lang="no")
    labels = [label for label, _ in told.lines() if label]
    assert "formål" in labels
    assert set(labels) <= set(LABELS.values())
    assert "forlater sykehuset" in labels
    text = dict(told.lines())
    assert text["løfte"].startswith("enten én bestemt pasient er med eller ikke")
    assert "7,39 ganger" in text["løfte"]
    assert "1 av 100 000" in text["løfte"]
    assert "1 av 100 000" in text["løfte"]
    assert "3 oppdateringer på 6 tall med støy" in text["forlater sykehuset"]


def test_each_text_has_the_same_places_in_both_languages() -> None:
    for english, norwegian in all_texts():
        assert english != norwegian
        assert places(english) == places(norwegian)


def places(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_one_is_singular_in_both_languages() -> None:
    assert (number_of("en", 1, "round"), number_of("no", 1, "round")) == ("1 round", "1 runde")
    assert (number_of("en", 2, "round"), number_of("no", 2, "round")) == ("2 rounds", "2 runder")


# --- The permit


@pytest.mark.parametrize(
    ("lang", "words"),
    [
        ("en", ("at most 6 rounds in 2 runs, epsilon 2, delta 1e-5", "for the named project only")),
        ("no", ("høyst 6 runder i 2 kjøringer", "bare for det nevnte prosjektet")),
    ],
)
def test_the_permit_is_shown_with_issuer_dates_and_limits(
    hospital: LabHospital, lang: Lang, words: tuple[str, ...]
) -> None:
    lab = PermitLab(Observer(hospital), LabIssuer(), study_document(study={"duo": ["DUO:0000027"]}))
    (hospital.folder / "issuer.pub").write_bytes(lab.issuer.public.to_bytes())
    lab.observer.edit_config("[consent]", '[permit]\nissuers = ["issuer.pub"]\n[consent]')
    lab.publish()
    folder = hospital.folder / "permits"
    folder.mkdir()
    (folder / "lab.jws").write_bytes(lab.honest())  # found there without being named
    (folder / "other.jws").write_bytes(b"something else")
    shown = "\n".join(summary(hospital, lab.study, lang=lang).permit)
    for word in (*words, "https://hdab.example.no", "2026-12-22T12:00:00Z"):
        assert word in shown
