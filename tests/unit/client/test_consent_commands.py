"""[consent] of node.toml, and `node consent check`: what a person who sets up an export sees."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lab import LabHospital
from solblom_client import vault as vault_module
from solblom_client.cli import app
from solblom_client.cohorts.cohort import read_consent_now
from solblom_client.policy import NodeConfig, load_node_config
from solblom_protocol.errors import ConfigurationError

CONSENT = {
    "resourceType": "Consent",
    "status": "active",
    "scope": {"coding": [{"code": "research"}]},
    "category": [{"coding": [{"code": "59284-0"}]}],
    "patient": {"identifier": {"system": "mrn", "value": "SECRET-PATIENT-0042"}},
    "provision": {"type": "permit", "purpose": [{"code": "HRESCH"}]},
}
CHILD = {
    "resourceType": "Patient",
    "id": "p1",
    "birthDate": "2015-05-05",
    "identifier": [{"system": "mrn", "value": "SECRET-PATIENT-0042"}],
}


def settings(hospital: LabHospital, *lines: str) -> NodeConfig:
    file = hospital.folder / "node.toml"
    text = file.read_text(encoding="utf-8").replace("[consent]", "\n".join(["[consent]", *lines]))
    file.write_text(text, encoding="utf-8")
    return load_node_config(file)


def write_bundle(hospital: LabHospital, *resources: dict[str, Any]) -> None:
    entries = [{"resource": resource} for resource in resources]
    value = {"resourceType": "Bundle", "type": "collection", "entry": entries}
    path = hospital.folder / "consent.csv"
    path.write_text(json.dumps(value), encoding="utf-8")
    os.utime(path, (hospital.clock().timestamp(),) * 2)


def typed(hospital: LabHospital, *words: str) -> Any:
    return CliRunner().invoke(app, ["consent", *words, "--node", str(hospital.folder), "--json"])


# --- node.toml


@pytest.mark.parametrize(
    "line",
    [
        'purpose = ["HRESCH"]',
        'identifier_system = "mrn"',
        'kind = "xml"',
        'deceased = "perhaps"',
        "min_age_years = 0",
        "guardian_until_age = 0",
        "guardian_until_age = 16.5",
        "cohort_record_years = 0",
        "notice_days = 0",
        "cohort_record_years = inf",
    ],
)
def test_a_wrong_setting_of_consent_is_refused(hospital: LabHospital, line: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        settings(hospital, line)
    assert caught.value.code == "SB-103"


def test_every_setting_of_consent_reaches_the_join(hospital: LabHospital) -> None:
    lines = ('kind = "fhir"', 'purpose = ["HRESCH"]', 'identifier_system = "mrn"')
    config = settings(hospital, *lines)
    write_bundle(hospital, CONSENT, CHILD)
    assert read_consent_now(config, now=hospital.clock()).includes("SECRET-PATIENT-0042")
    older = config.model_copy(
        update={"consent": config.consent.model_copy(update={"min_age_years": 18})}
    )
    older._folder = config._folder
    state = read_consent_now(older, now=hospital.clock())
    assert state.reason("SECRET-PATIENT-0042") == "too-young"
    other = config.model_copy(
        update={"consent": config.consent.model_copy(update={"purpose": ("TREAT",)})}
    )
    other._folder = config._folder
    assert read_consent_now(other, now=hospital.clock()).counts() == {"other-purpose": 1}


@pytest.mark.parametrize(("kept", "counts"), [("exclude", {"deceased": 1}), ("keep", {})])
def test_what_becomes_of_the_dead_is_the_hospitals_choice(
    hospital: LabHospital, kept: str, counts: dict[str, int]
) -> None:
    config = settings(
        hospital, 'kind = "fhir"', f'deceased = "{kept}"', 'identifier_system = "mrn"'
    )
    write_bundle(hospital, CONSENT, CHILD | {"deceasedBoolean": True})
    assert read_consent_now(config, now=hospital.clock()).counts() == counts


# --- node consent check


def test_check_counts_what_does_not_fit_r4bs_structure(hospital: LabHospital) -> None:
    pytest.importorskip("fhir.resources")
    settings(hospital, 'kind = "fhir"')
    no_scope = {name: value for name, value in CONSENT.items() if name != "scope"}
    write_bundle(hospital, CONSENT, no_scope, CONSENT | {"SECRET-PATIENT-0042": 1}, CHILD)
    done = typed(hospital, "check")
    data = json.loads(done.stdout)
    assert done.exit_code == 1
    assert data["checked"] == 4
    assert data["faults"]["Consent.unknown member"] == 1
    assert sum(data["faults"].values()) == 2
    assert "SECRET" not in done.output


def test_check_is_content_with_a_plain_bundle(hospital: LabHospital) -> None:
    pytest.importorskip("fhir.resources")
    settings(hospital, 'kind = "fhir"')
    write_bundle(hospital, CONSENT, CHILD)
    assert typed(hospital, "check").exit_code == 0


def test_check_of_a_table_is_refused(hospital: LabHospital) -> None:
    assert typed(hospital, "check").exit_code == 3


def test_show_tells_a_source_that_stops_rounds(
    hospital: LabHospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vault_module, "utc_now", hospital.clock)
    Path(hospital.folder / "consent.csv").unlink()
    done = typed(hospital, "show")
    assert done.exit_code == 1
    assert "SB-308" in done.output
