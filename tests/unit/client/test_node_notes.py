"""What `node status` tells a person to do: what waits, what was refused, and settings that do not count yet."""

import json
import os
import socket
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

from lab import LabHospital
from solblom_client.cli import app
from solblom_client.node_notes import OLDER_SETTINGS, has_older_settings, notes_of
from vault_process import short_folder


@pytest.fixture
def lab() -> Iterator[LabHospital]:
    with short_folder() as folder:  # the path of a unix socket may not be long
        yield LabHospital(folder / "n")


def listening(lab: LabHospital) -> socket.socket:
    place = lab.config.path(lab.config.vault.socket)
    place.parent.mkdir(exist_ok=True)
    found = socket.socket(socket.AF_UNIX)
    found.bind(str(place))
    found.listen()
    return found


def changed(lab: LabHospital, seconds: float) -> None:
    """Set the time of node.toml's last change, in seconds after the vault's start."""
    started = lab.config.path(lab.config.vault.socket).stat().st_mtime
    os.utime(lab.folder / "node.toml", (started + seconds, started + seconds))


def last_event(lab: LabHospital, line: str) -> None:
    log = lab.config.state / "log" / "vault.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(f'{{"event": "reserved", "time": "2026-11-30T02:15:57Z"}}\n{line}\n')


def refusal(code: str, time: str = "2026-11-30T02:15:58Z") -> str:
    return json.dumps({"event": f"refused {code}", "time": time, "trace": "row of PATIENT-7"})


def test_settings_that_changed_while_the_vault_runs_are_said_not_to_count_yet(
    lab: LabHospital,
) -> None:
    with listening(lab):
        changed(lab, -5)
        assert not has_older_settings(lab.config)
        changed(lab, +5)
        assert notes_of(lab.config) == [OLDER_SETTINGS]
    assert not has_older_settings(lab.config)  # nobody listens any more: the next start reads it


def test_status_names_the_newest_refusal_by_its_code_and_not_by_its_reason(
    lab: LabHospital,
) -> None:
    last_event(lab, refusal("SB-209"))
    done = CliRunner().invoke(app, ["status", "--node", str(lab.folder)], env={"COLUMNS": "200"})
    assert "refused, SB-209 at 2026-11-30T02:15:58Z" in done.stdout
    assert "PATIENT-7" not in done.output
    told = CliRunner().invoke(app, ["status", "--node", str(lab.folder), "--json"])
    assert len(json.loads(told.stdout)["to_do"]) == 1


@pytest.mark.parametrize(
    "line",
    [
        '{"event": "released", "time": "2026-11-30T02:15:58Z"}',
        refusal("SB-219"),
        refusal("SB-209\n\x1b[2J"),
        refusal("SB-209", "\x1b[2J"),
        "{",
        "[]",
        "7",
    ],
    ids=["answered since", "waits", "escape in code", "escape in time", "cut", "list", "number"],
)
def test_what_is_no_refusal_of_a_known_form_is_not_shown(lab: LabHospital, line: str) -> None:
    last_event(lab, line)
    assert notes_of(lab.config) == []


def test_a_state_folder_that_cannot_be_read_is_no_error_of_status(lab: LabHospital) -> None:
    last_event(lab, refusal("SB-209"))
    assert notes_of(lab.config) != []
    (lab.config.state / "log" / "vault.jsonl").rename(lab.config.state / "elsewhere")
    assert notes_of(lab.config) == []
