"""A support file is made of a node whose link, log or settings say anything at all, and of no patient's row."""

import json
import os
from pathlib import Path

import pytest

from lab import LabHospital, study_document
from solblom_client.cohorts.family_record import keep_families
from solblom_client.connectors.sources import open_source
from solblom_client.keys import read_node_keys
from solblom_client.link.process import STATUS_FILE, read_status
from solblom_client.policy import load_node_config
from solblom_client.service.start_cli import node_status
from solblom_client.support import gather as gathering
from solblom_client.support.gather import gather
from solblom_client.support.writing import as_zip
from solblom_models.task import find_task

ALIVE = os.getpid()
STUDY = study_document()


@pytest.fixture
def hospital(tmp_path: Path) -> LabHospital:
    return LabHospital(tmp_path / "node")


def left_by_the_link(hospital: LabHospital, text: str) -> None:
    folder = hospital.folder / "link"
    folder.mkdir(exist_ok=True)
    (folder / STATUS_FILE).write_text(text)


@pytest.mark.parametrize(
    "said",
    [
        {"pid": ALIVE},
        {"pid": ALIVE, "state": ["connected"]},
        {"pid": 10**30, "state": "connected"},
        {"pid": ALIVE, "state": "connected", "code": ["SB-624"], "last_contact": float("nan")},
        {"pid": ALIVE, "state": "connected", "last_contact": float("inf"), "orders": 10**400},
    ],
)
def test_whatever_the_link_left_the_file_is_made(
    hospital: LabHospital, said: dict[str, object]
) -> None:
    left_by_the_link(hospital, json.dumps(said))
    report = gather(hospital.config, now=hospital.clock())
    assert report.halves is not None
    assert report.halves.link_code is None
    node_status(hospital.config)


def test_a_status_as_deep_as_it_is_long_is_no_status(hospital: LabHospital) -> None:
    left_by_the_link(hospital, "[" * 60_000)
    assert read_status(hospital.config) == {}


@pytest.mark.parametrize("how", ["link", "pipe", "large"])
def test_no_link_is_followed_and_no_pipe_waited_for(hospital: LabHospital, how: str) -> None:
    path = hospital.folder / "link" / STATUS_FILE
    path.parent.mkdir()
    if how == "link":
        aside = hospital.folder / "aside.json"
        aside.write_text('{"state": "connected"}')
        path.symlink_to(aside)
    elif how == "pipe":
        os.mkfifo(path)
    else:
        path.write_text('{"state": "connected", "more": "' + "x" * 2**20 + '"}')
    assert read_status(hospital.config) == {}


def test_what_steers_a_terminal_is_left_out(hospital: LabHospital) -> None:
    left_by_the_link(hospital, json.dumps({"state": "paused", "trouble": "\x1b[2Jfine"}))
    assert read_status(hospital.config) == {"state": "paused"}


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        (
            '{"time":"%s","event":"counted","what":"refused","code":"SB-203","times":1e999}',
            "SB-406",
        ),
        (
            '{"time":"%s","event":"counted","what":"refused","code":"SB-203","times":10000000000}',
            None,
        ),
        ("[" * 60_000, "SB-406"),
    ],
)
def test_a_log_with_numbers_that_nobody_counts_to_makes_no_difference(
    hospital: LabHospital, monkeypatch: pytest.MonkeyPatch, entry: str, code: str | None
) -> None:
    now = hospital.clock()
    text = entry % now.strftime("%Y-%m-%dT%H:%M:%SZ") if "%s" in entry else entry
    monkeypatch.setattr(gathering, "read_entries", lambda place: [text])
    assert gather(hospital.config, now=now).refusals_code == code


def test_a_log_that_is_kept_for_a_thousand_years_is_no_fault(hospital: LabHospital) -> None:
    path = hospital.folder / "node.toml"
    path.write_text(path.read_text() + "\n[log]\nretention_days = 365000\n")
    settings = gather(load_node_config(path), now=hospital.clock()).settings
    assert settings is not None
    assert settings.retention_days == 100_000


def test_how_many_patients_a_study_by_family_has_does_not_show(tmp_path: Path) -> None:
    made = []
    for count in (60, 9000):
        hospital = LabHospital(tmp_path / str(count), patients=count)
        rows = [{**row, "kin": f"F{n}"} for n, row in enumerate(hospital.rows)]
        hospital.write_rows(rows)
        path = hospital.folder / "node.toml"
        path.write_text(path.read_text() + 'family = "kin"\n')
        config = load_node_config(path)
        source = open_source(config, config.dataset[0], STUDY.contract)
        units = find_task("tabular-classification").read_units(source, STUDY)
        split = read_node_keys(config.state).split
        keep_families(hospital.vault._state, split, STUDY.digest, units)
        made.append(as_zip(gather(config, now=hospital.clock())))
    assert made[0] == made[1]
