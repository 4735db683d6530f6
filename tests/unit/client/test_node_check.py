"""`solblom node check`: what is wrong with a node or its data is named inside; outside there is a light."""

import datetime as dt
import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from check_lab import changed, edit, lights, node_lights
from lab import CONTRACT, STUDY, LabHospital, study_document
from solblom_client import vault as vault_module
from solblom_client.checks import preflight as preflight_module
from solblom_client.checks.finding import Finding, Light, worst
from solblom_client.checks.node_check import NODE_CHECKS
from solblom_client.checks.preflight import STUDY_CHECKS, preflight
from solblom_client.checks.traffic_light import read_traffic_light, write_traffic_light
from solblom_client.cli import app
from solblom_client.keys import read_node_keys
from solblom_models.study_document import resolve
from solblom_protocol.contracts.table import Contract
from solblom_protocol.errors import IntegrityError
from solblom_protocol.messages.result import Result
from solblom_protocol.permits.issuer import Issuer
from solblom_protocol.studies.tables import Study
from solblom_protocol.toml_file import parse


@pytest.fixture
def patients() -> int:
    return 120


# The node itself


def test_a_healthy_node_shows_every_check_and_none_says_stop(hospital: LabHospital) -> None:
    found = node_lights(hospital)
    assert tuple(found) == NODE_CHECKS
    assert {name for name, f in found.items() if f.light is Light.STOP} <= {"isolation"}
    assert found["ledger"].light is Light.OK


def test_a_key_that_others_can_read_is_a_stop(hospital: LabHospital) -> None:
    (hospital.config.state / "keys" / "split.key").chmod(0o640)
    found = node_lights(hospital)["keys"]
    assert found.light is Light.STOP
    assert "chmod 600" in found.todo


def test_a_missing_key_is_a_stop(hospital: LabHospital) -> None:
    (hospital.config.state / "keys" / "sealing.key").unlink()
    assert node_lights(hospital)["keys"].light is Light.STOP


def test_a_noise_root_that_others_can_read_is_a_stop(hospital: LabHospital) -> None:
    hospital.approve(study_document())
    root = next((hospital.config.state / "approvals").glob("*/noise.root"))
    root.chmod(0o644)
    assert node_lights(hospital)["keys"].light is Light.STOP


def test_a_state_folder_that_others_can_open_is_a_stop(hospital: LabHospital) -> None:
    hospital.config.state.chmod(0o755)
    assert node_lights(hospital)["state folder"].light is Light.STOP


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_state_folder_of_another_user_is_a_stop(hospital: LabHospital) -> None:
    os.chown(hospital.config.state, 65534, -1)
    assert node_lights(hospital)["state folder"].light is Light.STOP


def test_a_damaged_ledger_is_a_stop(hospital: LabHospital) -> None:
    hospital.vault.close()
    (hospital.config.state / "vault.sqlite").write_bytes(b"no database")
    assert node_lights(hospital)["ledger"].light is Light.STOP


def test_a_ledger_older_than_its_anchor_is_a_stop(hospital: LabHospital) -> None:
    document = study_document()
    hospital.approve(document)
    old = (hospital.config.state / "vault.sqlite").read_bytes()
    assert isinstance(hospital.ask(hospital.order(document)), Result)
    hospital.vault.close()
    (hospital.config.state / "vault.sqlite").write_bytes(old)
    found = node_lights(hospital)["ledger"]
    assert found.light is Light.STOP
    assert "rolled back" in found.text


def test_a_node_without_an_anchor_wants_attention(hospital: LabHospital) -> None:
    edit(hospital, 'anchor = "anchor.json"\n', "")
    assert node_lights(hospital)["ledger"].light is Light.ATTENTION


def test_a_clock_behind_the_newest_order_is_a_stop(hospital: LabHospital) -> None:
    document = study_document()
    hospital.approve(document)
    assert isinstance(hospital.ask(hospital.order(document)), Result)
    hospital.clock.advance(hours=-1)
    found = node_lights(hospital)["clock"]
    assert found.light is Light.STOP
    assert "60 minutes behind" in found.text


def test_a_clock_behind_a_signed_order_in_the_inbox_is_a_stop(hospital: LabHospital) -> None:
    from solblom_protocol.messages.mailbox import write_mail

    edit(
        hospital, 'key = "coordinator.pub"', 'key = "coordinator.pub"\ninbox = "in"\noutbox = "out"'
    )
    write_mail(hospital.folder / "in", hospital.order(study_document()))
    assert node_lights(hospital)["clock"].light is Light.OK
    hospital.clock.advance(hours=-2)
    assert node_lights(hospital)["clock"].light is Light.STOP


def test_a_stale_consent_source_is_a_stop(hospital: LabHospital) -> None:
    edit(hospital, "max_age_hours = 10000000", "max_age_hours = 24")
    hospital.clock.advance(hours=25)
    assert node_lights(hospital)["consent source"].light is Light.STOP


def test_a_consent_source_that_is_not_there_is_named(hospital: LabHospital) -> None:
    source = hospital.config.path(hospital.config.consent.source)
    source.unlink()
    found = node_lights(hospital)["consent source"]
    assert found.light is Light.STOP
    assert f"{source} is not there" in found.text


def test_the_pinned_coordinators_fingerprint_is_shown(hospital: LabHospital) -> None:
    from solblom_protocol.keys.key_files import fingerprint

    found = node_lights(hospital)["coordinator's key"]
    assert fingerprint(hospital.coordinator.public.signing) in found.text


def test_a_node_without_a_coordinators_key_is_a_stop(hospital: LabHospital) -> None:
    (hospital.folder / "coordinator.pub").unlink()
    assert node_lights(hospital)["coordinator's key"].light is Light.STOP


def test_data_that_are_not_there_are_a_stop(hospital: LabHospital) -> None:
    (hospital.folder / "patients.csv").unlink()
    assert node_lights(hospital)["data sets"].light is Light.STOP


def test_data_that_the_vault_could_change_want_attention(hospital: LabHospital) -> None:
    found = node_lights(hospital)["data sets"]
    assert found.light is Light.ATTENTION
    assert "read-only" in found.todo


def test_no_patient_row_is_read_without_a_study(
    hospital: LabHospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    from solblom_client.connectors import table

    def never(*given: Any, **named: Any) -> None:
        raise AssertionError("rows were read")

    monkeypatch.setattr(table, "read_table", never)
    node_lights(hospital)


# The data, by a study


def test_good_data_show_every_check_without_a_stop(hospital: LabHospital) -> None:
    found = lights(hospital)
    assert tuple(found) == STUDY_CHECKS
    assert {n: f.text for n, f in found.items() if f.light is Light.STOP} == {}
    assert "rounds fit" in found["budget"].text


def test_an_unsigned_study_is_looked_at_no_further(hospital: LabHospital) -> None:
    keys = read_node_keys(hospital.config.state)
    found = preflight(hospital.config, keys, b"{}", now=hospital.clock())
    assert found.study is None
    assert [f.light for f in found.findings] == [Light.STOP] + [Light.ATTENTION] * (
        len(STUDY_CHECKS) - 1
    )


def test_a_study_beyond_the_policy_is_a_stop(hospital: LabHospital) -> None:
    assert lights(hospital, study_document(privacy={"epsilon": 9.0}))["policy"].light is Light.STOP


def test_a_researchers_key_that_is_not_there_is_a_stop(hospital: LabHospital) -> None:
    (hospital.folder / "researcher.pub").unlink()
    assert lights(hospital)["signature"].light is Light.STOP


def test_a_needed_permit_that_is_not_there_wants_attention(hospital: LabHospital) -> None:
    issuer = Issuer.of("https://dac.invalid", hospital.researcher.public_key())
    (hospital.folder / "issuer.pub").write_bytes(issuer.to_bytes())
    assert lights(hospital)["permit"].light is Light.OK
    edit(hospital, "[consent]", '[permit]\nrequired = true\nissuers = ["issuer.pub"]\n[consent]')
    assert lights(hospital)["permit"].light is Light.ATTENTION
    assert (
        node_lights(hospital)["permit issuers"].light is Light.ATTENTION
    )  # no list of revoked ones


def test_a_log_of_decisions_that_was_changed_is_a_stop(hospital: LabHospital) -> None:
    import sqlite3

    hospital.approve(study_document())
    hospital.ask(hospital.order(study_document()))
    assert node_lights(hospital)["decisions"].light is Light.OK
    hospital.vault.close()
    database = sqlite3.connect(hospital.config.state / "log" / "decisions.sqlite")
    with database:
        database.execute("UPDATE entries SET entry = replace(entry, 'accepted', 'released')")
    database.close()
    assert node_lights(hospital)["decisions"].light is Light.STOP


def test_who_approves_is_shown_what_is_yellow_or_red(hospital: LabHospital) -> None:
    hospital.write_rows(changed(hospital, smoker=lambda row, n: row["ill"]))
    signed = hospital.folder / "lab.signed.json"
    signed.write_bytes(hospital.sign(study_document()))
    shown = CliRunner().invoke(app, ["approve", str(signed), str(hospital.folder), "--yes"])
    assert shown.exit_code == 0, shown.output
    assert "LOOK  leakage" in shown.output
    assert "smoker: 1.000" in shown.output


def test_an_ended_study_is_a_stop(hospital: LabHospital) -> None:
    hospital.clock.now = dt.datetime(2029, 1, 1, tzinfo=dt.UTC)
    assert lights(hospital)["dates"].light is Light.STOP


@pytest.mark.parametrize(
    ("check", "cells"),
    [
        ("values", {"age": "121"}),
        ("values", {"age": "old"}),
        ("values", {"grade": "z"}),
        ("values", {"ill": ""}),
        ("labels", {"ill": "1"}),
        ("patients", {"patient_id": "the-same"}),
        ("leakage", {"age": lambda row, n: str(30 + 50 * int(row["ill"]) + n % 20)}),
        ("leakage", {"smoker": lambda row, n: row["ill"]}),
        ("leakage", {"grade": lambda row, n: "ab"[n % 2] if row["ill"] == "1" else "c"}),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_data_that_do_not_fit_are_a_stop(
    hospital: LabHospital, check: str, cells: dict[str, Any]
) -> None:
    hospital.write_rows(changed(hospital, **cells))
    assert lights(hospital)[check].light is Light.STOP


def test_a_value_that_is_there_only_for_the_ill_is_a_leak(hospital: LabHospital) -> None:
    rows = changed(hospital, age=lambda row, n: row["age"] if row["ill"] == "1" else "?")
    hospital.write_rows(rows)
    assert lights(hospital)["leakage"].light is Light.STOP


def test_a_level_that_few_have_is_no_leak(hospital: LabHospital) -> None:
    """A hundred levels of one patient each would separate everybody, and say nothing."""
    levels = [f"l{n}" for n in range(100)]
    contract = {
        **CONTRACT,
        "variable": [*CONTRACT["variable"][:2], CONTRACT["variable"][2] | {"levels": levels}],
    }
    document = resolve(
        parse(Study, STUDY, source="lab"), parse(Contract, contract, source="lab"), None
    )
    hospital.write_rows(changed(hospital, grade=lambda row, n: f"l{n % 100}"))
    assert lights(hospital, document)["leakage"].light is Light.OK


def test_a_missing_column_is_a_stop_and_named_inside(hospital: LabHospital) -> None:
    hospital.write_rows([{k: v for k, v in r.items() if k != "age"} for r in hospital.rows])
    found = lights(hospital)
    assert found["schema"].light is Light.STOP
    assert found["schema"].details == ("age",)
    assert found["cohort"].light is Light.ATTENTION
    assert "not looked at" in found["cohort"].text


def test_all_wrong_variables_are_named_at_once(hospital: LabHospital) -> None:
    hospital.write_rows(changed(hospital, age="121", grade="z"))
    assert len(lights(hospital)["values"].details) == 2


def test_many_missing_values_want_attention(hospital: LabHospital) -> None:
    hospital.write_rows(changed(hospital, smoker=lambda row, n: "" if n % 2 else row["smoker"]))
    found = lights(hospital)["missing values"]
    assert found.light is Light.ATTENTION
    assert found.details == ("smoker: 50%",)


def test_one_patient_under_two_ids_wants_attention(hospital: LabHospital) -> None:
    rows = changed(hospital, age=lambda row, n: f"{20 + n / 3:.3f}")
    hospital.write_rows([*rows, rows[0] | {"patient_id": "another"}])
    assert lights(hospital)["identical rows"].light is Light.ATTENTION
    hospital.write_rows(rows)
    assert lights(hospital)["identical rows"].light is Light.OK


def test_too_few_patients_are_a_stop(hospital: LabHospital) -> None:
    hospital.write_rows(hospital.rows[:11])  # 12 are needed, whoever is kept for testing
    assert lights(hospital)["cohort"].light is Light.STOP


def test_patients_whom_consent_excludes_are_not_counted(hospital: LabHospital) -> None:
    hospital.write_consent([f"{row['patient_id']},withdrawn," for row in hospital.rows[:110]])
    found = lights(hospital)["cohort"]
    assert found.light is Light.STOP
    assert "110 excluded by consent" in found.text


def test_a_small_class_wants_attention(hospital: LabHospital) -> None:
    hospital.write_rows(changed(hospital, ill=lambda row, n: str(int(n % 20 == 0))))
    assert lights(hospital)["labels"].light is Light.ATTENTION


def test_a_split_with_too_few_to_test_wants_attention(hospital: LabHospital) -> None:
    few = study_document(
        evaluation={"releases": 1, "bins": 10, "split": {"by": "patient", "test_fraction": 0.02}}
    )
    assert lights(hospital, few)["split"].light is Light.ATTENTION


def test_a_budget_that_does_not_admit_all_rounds_wants_attention(hospital: LabHospital) -> None:
    edit(hospital, "[policy]", "[policy]\nepsilon_budget = 1.6")
    found = lights(hospital)["budget"]
    assert found.light in (Light.ATTENTION, Light.STOP)


# Outside


def test_the_traffic_light_has_no_number_and_is_signed_by_the_node(hospital: LabHospital) -> None:
    hospital.write_rows(changed(hospital, age="121", grade="z"))
    key = read_node_keys(hospital.config.state).signing
    found = [*node_lights(hospital).values(), *lights(hospital).values()]
    now, site = hospital.clock(), hospital.site
    data = write_traffic_light(found, site=site, study=None, key=key, now=now)
    said = read_traffic_light(data, hospital.public.signing)
    assert said.light == "stop"
    assert [check.name for check in said.checks] == [*NODE_CHECKS, *STUDY_CHECKS]
    words = json.dumps([check.model_dump() for check in said.checks])
    assert not any(sign.isdigit() for sign in words)
    for word in ("age", "grade", "121", "patient-"):
        assert f'"{word}' not in words
    with pytest.raises(IntegrityError):
        read_traffic_light(data, hospital.coordinator.public.signing)


def test_two_hospitals_with_other_data_and_the_same_lights_say_the_same(tmp_path: Path) -> None:
    said = []
    for patients in (90, 120):
        hospital = LabHospital(tmp_path / str(patients), patients=patients)
        found = [*lights(hospital).values()]
        key = hospital.researcher  # the same look of both, whoever signs
        data = write_traffic_light(found, site="x", study=None, key=key, now=hospital.clock())
        said.append(read_traffic_light(data, key.public_key()).checks)
        hospital.vault.close()
    assert said[0] == said[1]


# The command


def run(hospital: LabHospital, *words: str) -> Any:
    return CliRunner().invoke(app, ["check", str(hospital.folder), *words])


def test_the_command_ends_with_1_where_a_check_says_no(hospital: LabHospital) -> None:
    edit(hospital, "[consent]", '[vault]\nisolation = "best-effort"\n[consent]')
    signed = hospital.folder / "lab.signed.json"
    signed.write_bytes(hospital.sign(study_document()))
    good = run(hospital, "--study", str(signed), "--json")
    body = json.loads(good.stdout)
    assert body["schema"] == "solblom.node.check/1"
    assert (good.exit_code, body["ok"]) == (0, True), good.stdout
    hospital.write_rows(hospital.rows[:12])
    lights_file = hospital.folder / "lights.json"
    bad = run(hospital, "--study", str(signed), "--json", "--outside", str(lights_file))
    assert bad.exit_code == 1
    assert read_traffic_light(lights_file.read_bytes(), hospital.public.signing).light == "stop"


def test_a_node_without_keys_shows_the_rest_and_looks_at_no_study(hospital: LabHospital) -> None:
    signed = hospital.folder / "lab.signed.json"
    signed.write_bytes(hospital.sign(study_document()))
    (hospital.config.state / "keys" / "signing.key").unlink()
    shown = run(hospital, "--study", str(signed), "--json")
    assert shown.exit_code == 1
    found = {check["name"]: check["light"] for check in json.loads(shown.stdout)["checks"]}
    assert (found["keys"], found["leakage"]) == ("stop", "attention")


def test_a_wrong_node_toml_is_a_stop_that_says_what_is_wrong(hospital: LabHospital) -> None:
    file = hospital.folder / "node.toml"
    file.write_text(file.read_text(encoding="utf-8") + "\nodd = 1\n", encoding="utf-8")
    shown = run(hospital)
    assert shown.exit_code == 1
    assert "odd" in shown.stdout


# Never per order (privacy.md rule 5)


def test_no_order_runs_a_data_check(hospital: LabHospital, monkeypatch: pytest.MonkeyPatch) -> None:
    from solblom_client.checks import data_quality, preflight_data

    document = study_document()
    hospital.approve(document)

    def never(*given: Any, **named: Any) -> None:
        raise AssertionError("a data check ran for an order")

    for module in (preflight_module, preflight_data, data_quality):
        for name in ("preflight", "look_at_data", "leaks", "identical_rows", "missing_shares"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, never)
    assert isinstance(hospital.ask(hospital.order(document)), Result)


def test_the_vault_does_not_load_the_checks() -> None:
    """What answers orders imports nothing of `checks`, directly or by way of another part of the node."""
    import ast

    folder = Path(vault_module.__file__).parent
    seen, waiting = set(), ["vault"]
    while waiting:
        name = waiting.pop()
        file = folder / (name.replace(".", "/") + ".py")
        if name in seen or not file.is_file():
            continue
        seen.add(name)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
                "solblom_client."
            ):
                module = str(node.module).removeprefix("solblom_client.")
                waiting += [module, *(f"{module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.ImportFrom) and node.module == "solblom_client":
                waiting += [alias.name for alias in node.names]
    assert len(seen) > 10
    assert not {name for name in seen if name.startswith("checks")}


def test_the_gravest_light_counts() -> None:
    assert worst([]) is Light.OK
    assert worst([Finding("a", Light.STOP, ""), Finding("b", Light.ATTENTION, "")]) is Light.STOP
